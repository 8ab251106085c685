//! Tickets and receipts must read or refuse any text.
#![no_main]

use ballot::ids::PollId;
use ballot::keys::Keys;
use ballot::receipt::Receipt;
use ballot::ticket::Ticket;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (Some(keys), Ok(poll)) = (Keys::from_bytes(&[1; 32]), PollId::try_from("pets")) else { return };
    assert_eq!(Ticket::check(&keys, &poll, text), None);
    if let Ok(receipt) = text.parse::<Receipt>() {
        assert_eq!(receipt.to_string().parse::<Receipt>().as_ref(), Ok(&receipt));
    }
});
