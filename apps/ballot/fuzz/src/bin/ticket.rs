//! Tickets and receipts: no text makes a panic, and only our own codes are taken, whatever their capitals and hyphens.
#![no_main]

use std::sync::OnceLock;

use ballot::ids::PollId;
use ballot::keys::Keys;
use ballot::receipt::Receipt;
use ballot::ticket::Ticket;

fn fixed() -> &'static (Keys, PollId, PollId) {
    static MADE: OnceLock<(Keys, PollId, PollId)> = OnceLock::new();
    MADE.get_or_init(|| {
        let poll = |id: &str| PollId::try_from(id).expect("an id");
        (Keys::from_bytes(&[4; 32]).expect("keys"), poll("board"), poll("lunch"))
    })
}

fn bare(code: &str) -> String {
    code.chars().filter(|c| !matches!(c, '-' | ' ')).collect::<String>().to_ascii_lowercase()
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (keys, poll, other) = fixed();
    let text = String::from_utf8_lossy(data);
    if let Some(ticket) = Ticket::check(keys, poll, &text) {
        assert_eq!(bare(&text), bare(&ticket.code(keys, poll)));
    }
    if let Ok(receipt) = text.parse::<Receipt>() {
        assert_eq!(receipt.to_string().parse::<Receipt>().ok(), Some(receipt));
    }
    // A real code, and the same with some bytes of the input over it.
    let Some((id, edits)) = data.split_at_checked(10) else { return };
    let ticket = Ticket { id: id.try_into().expect("ten") };
    let code = ticket.code(keys, poll);
    assert_eq!(Ticket::check(keys, poll, &code), Some(ticket));
    assert_eq!(Ticket::check(keys, other, &code), None);
    let mut changed = code.clone().into_bytes();
    for edit in edits.chunks_exact(2) {
        let at = usize::from(edit[0]) % changed.len();
        changed[at] = edit[1];
    }
    let changed = String::from_utf8_lossy(&changed);
    if bare(&changed) != bare(&code) {
        assert_eq!(Ticket::check(keys, poll, &changed), None, "{changed}");
    }
});
