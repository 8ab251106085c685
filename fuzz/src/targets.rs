//! The targets and what each promises.

use std::path::Path;
use std::sync::OnceLock;

use bytes::Bytes;
use skep_agent::wire::{Decoder, Frame, MAX_FRAME};
use skep_backends::process::fuzzing::shim_protocol;
use skep_docker::{Demux, JsonLines, Source};
use skep_edge::fuzzing::{fields, frames, paths, request, response};
use skep_identity::cookies::{login_path, safe_target, values};
use skep_identity::{
    GUEST_COOKIE, GuestSealer, KeyRing, LoginCookie, SEAT_COOKIE, SHARE_COOKIE, SeatSealer, SessionId,
    SessionSealer, ShareIn, ShareSealer,
};
use skep_model::{AppId, GuestId, InstanceId, Principal, UserName};

use crate::config::ServerFile;
use crate::config::discover::own_keys;
use crate::config::problem::Problems;
use crate::import::{Imported, shiny_server_conf, shinyproxy_yml};

pub(crate) const ALL: [(&str, fn(&[u8])); 16] = [
    ("request-head", request),
    ("response-head", response),
    ("paths", paths),
    ("forwarded-fields", fields),
    ("websocket-frames", frames),
    ("cookies", cookies),
    ("cookie-contents", cookie_contents),
    ("key-ring", key_ring),
    ("server-config", server_config),
    ("app-config", app_config),
    ("import-shiny-server", import_shiny_server),
    ("import-shinyproxy", import_shinyproxy),
    ("docker-streams", docker_streams),
    ("agent-frame", agent_frame),
    ("shim-protocol", shim_protocol),
    ("names", names),
];

/// Each problem can be told, and tells where.
fn tell(problems: &Problems) {
    assert!(!problems.0.is_empty());
    for problem in &problems.0 {
        assert!(!problem.to_string().is_empty());
        assert!(problem.at.is_none_or(|(line, column)| line > 0 && column > 0));
    }
}

fn server_config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(problems) = ServerFile::parse(Path::new("/etc/skep/skep.toml"), text) {
        tell(&problems);
    }
}

fn app_config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(problems) = own_keys(Path::new("/srv/apps/sales/skep.toml"), text) {
        tell(&problems);
    }
}

/// Whatever is imported without a complaint is a config that Skep reads.
fn import(text: &str, imported: &Imported) {
    if imported.is_wrong() {
        return;
    }
    if let Err(problems) = ServerFile::parse(Path::new("/etc/skep/skep.toml"), &imported.toml) {
        let all: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
        panic!("what was imported is refused: {}\n{text}\n{}", all.join("\n"), imported.toml);
    }
}

fn import_shiny_server(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    import(text, &shiny_server_conf(text));
}

fn import_shinyproxy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let known = |name: &str| (name.len() == 1).then(|| format!("${{{name}}}\"\n"));
    import(text, &shinyproxy_yml(text, &|_| None));
    import(text, &shinyproxy_yml(text, &known));
}

/// What an engine sends, in pieces cut anywhere: the cuts change nothing, and nothing is held back without bound.
fn docker_streams(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let pieces = |size: usize| bytes.chunks(size.max(1)).map(Bytes::copy_from_slice).collect::<Vec<_>>();
    let frames = |size: usize| {
        let mut demux = Demux::default();
        let mut seen: Vec<(Source, Vec<u8>)> = Vec::new();
        for piece in pieces(size) {
            let Ok(frames) = demux.push(piece) else { return (seen, false) };
            for frame in frames {
                match seen.last_mut() {
                    Some((source, bytes)) if *source == frame.source => bytes.extend(&frame.bytes),
                    _ => seen.push((frame.source, frame.bytes.to_vec())),
                }
            }
        }
        (seen, true)
    };
    let (whole, whole_good) = frames(usize::MAX);
    let (cut_up, cut_up_good) = frames(usize::from(*cut));
    assert_eq!(whole_good, cut_up_good);
    if whole_good {
        assert_eq!(whole, cut_up);
    }
    let lines = |size: usize| {
        let mut lines = JsonLines::new(256);
        pieces(size).iter().flat_map(|piece| lines.push(piece)).collect::<Vec<_>>()
    };
    let (whole, cut_up) = (lines(usize::MAX), lines(usize::from(*cut)));
    assert_eq!(whole.len(), cut_up.len());
    for (one, other) in whole.iter().zip(&cut_up) {
        assert_eq!(one.as_ref().ok(), other.as_ref().ok());
    }
}

/// What comes over an agent's line, in pieces cut anywhere: the cuts change nothing, what was understood can be said again
/// and means the same then.
fn agent_frame(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let frames = |size: usize| {
        let mut decoder = Decoder::default();
        let mut seen: Vec<Frame> = Vec::new();
        for piece in bytes.chunks(size.max(1)) {
            decoder.push(piece);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => seen.push(frame),
                    Ok(None) => break,
                    Err(error) => return (seen, Some(error)),
                }
            }
        }
        (seen, None)
    };
    let whole = frames(usize::MAX);
    assert_eq!(whole, frames(usize::from(*cut)));
    for frame in whole.0 {
        let said = frame.encode().expect("what was understood can be said");
        assert!(said.len() <= 4 + MAX_FRAME);
        let mut decoder = Decoder::default();
        decoder.push(&said);
        assert_eq!(decoder.next_frame(), Ok(Some(frame)));
        assert!(decoder.is_empty());
    }
}

struct Sealers {
    ring: KeyRing,
    seats: SeatSealer,
    sessions: SessionSealer,
    guests: GuestSealer,
    shares: ShareSealer,
    app: AppId,
}

/// The same in every run, so that findings can be repeated.
fn sealers() -> &'static Sealers {
    static SEALERS: OnceLock<Sealers> = OnceLock::new();
    SEALERS.get_or_init(|| {
        let ring =
            KeyRing::parse("v1 00000001 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n").expect("a ring");
        let (seats, sessions) = (SeatSealer::new(&ring), SessionSealer::new(&ring));
        Sealers {
            guests: GuestSealer::new(&ring),
            shares: ShareSealer::new(&ring),
            ring,
            seats,
            sessions,
            app: "sales".parse().expect("an id"),
        }
    })
}

/// Cookie headers from outside: nobody without the key makes one that opens.
fn cookies(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let sealers = sealers();
    let logins = [LoginCookie::Host.name(), LoginCookie::Plain.name()];
    for name in [SEAT_COOKIE, GUEST_COOKIE, SHARE_COOKIE].into_iter().chain(logins) {
        for value in values(text, name).chain([text]) {
            assert_eq!(sealers.seats.open(&sealers.app, None, value), None);
            assert_eq!(sealers.guests.open(value), None);
            for place in [ShareIn::Link, ShareIn::Cookie(&Principal::Anonymous)] {
                assert_eq!(sealers.shares.open(place, value), None);
            }
            for cookie in [LoginCookie::Host, LoginCookie::Plain] {
                assert_eq!(sealers.sessions.open(cookie, value, 0), None);
            }
        }
    }
    let target = safe_target(text);
    assert!(target.starts_with('/') && !target.starts_with("//") && !target.contains(['\\', '\r', '\n']));
    let login = login_path(text);
    assert!(login.bytes().all(|byte| byte.is_ascii_graphic()), "{login}");
}

/// What is inside a seal that opens: another version of ours may have made it.
fn cookie_contents(bytes: &[u8]) {
    let sealers = sealers();
    let names = [LoginCookie::Host.name(), LoginCookie::Plain.name(), SEAT_COOKIE];
    let [host, _, seat] = names.map(|name| sealers.ring.sealer(name));
    if let Ok(text) = seat.seal(sealers.app.as_str(), bytes) {
        let cookie = sealers.seats.open(&sealers.app, None, &text);
        if let Some(cookie) = cookie {
            let again = sealers.seats.seal(&sealers.app, None, &cookie).expect("random numbers");
            assert_eq!(sealers.seats.open(&sealers.app, None, &again), Some(cookie));
        }
    }
    if let Ok(text) = host.seal("", bytes) {
        for now in [0, 1_800_000_000_000, i64::MAX] {
            if let Some(opened) = sealers.sessions.open(LoginCookie::Host, &text, now) {
                assert!(opened.session.is_live(now));
            }
        }
        assert_eq!(sealers.sessions.open(LoginCookie::Plain, &text, 0), None);
    }
    if let Ok(text) = sealers.ring.sealer(GUEST_COOKIE).seal("", bytes) {
        let id = <[u8; 16]>::try_from(bytes).ok().map(|id| GuestId(u128::from_be_bytes(id)));
        assert_eq!(sealers.guests.open(&text), id);
    }
    // In the context of a link; that of a guest's cookie is another, and what is inside is read the same.
    if let Ok(text) = sealers.ring.sealer(SHARE_COOKIE).seal("link", bytes) {
        if let Some(share) = sealers.shares.open(ShareIn::Link, &text) {
            let again = sealers.shares.seal(ShareIn::Link, &share).expect("random numbers");
            assert_eq!(sealers.shares.open(ShareIn::Link, &again), Some(share));
        }
        assert_eq!(sealers.shares.open(ShareIn::Cookie(&Principal::Anonymous), &text), None);
    }
}

fn key_ring(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match KeyRing::parse(text) {
        Ok(ring) => assert!(!ring.is_empty() && ring.len() <= skep_identity::MAX_KEYS),
        Err((line, what)) => assert!(line > 0 && !what.is_empty()),
    }
}

/// Names and ids are written as they are read.
fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(id) = text.parse::<AppId>() {
        assert_eq!(id.as_str(), text);
        assert!(!text.contains(['/', '.', '%']), "{text}");
    }
    if let Ok(id) = text.parse::<InstanceId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Some(id) = SessionId::parse(text) {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(name) = text.parse::<UserName>() {
        assert_eq!(name.as_str().parse::<UserName>().as_ref(), Ok(&name));
    }
}
