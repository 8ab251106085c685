//! Numbers and addresses as text, appended to a line: what stands in every log line and every forwarded head, without
//! the general formatter's detours. Pure.

use std::fmt::Write as _;
use std::net::IpAddr;

/// `value` in decimal.
pub(crate) fn decimal(out: &mut String, mut value: u64) {
    // The longest has 20 digits.
    let mut room = [0; 20];
    let mut at = room.len();
    for place in room.iter_mut().rev() {
        *place = digit(value % 10);
        at -= 1;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    push(out, room.get(at..).unwrap_or_default());
}

/// The last three digits of `value`, with zeros in front.
pub(crate) fn three(out: &mut String, value: u64) {
    push(out, &[digit(value / 100 % 10), digit(value / 10 % 10), digit(value % 10)]);
}

/// All sixteen digits of `value` in hexadecimal.
pub(crate) fn hex(out: &mut String, value: u64) {
    let mut room = [0; 16];
    for (place, shift) in room.iter_mut().rev().zip((0..64).step_by(4)) {
        let nibble = u8::try_from(value >> shift & 0xf).unwrap_or_default();
        *place = if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble };
    }
    push(out, &room);
}

pub(crate) fn address(out: &mut String, ip: IpAddr) {
    let IpAddr::V4(ip) = ip else {
        // Writing to a string cannot fail.
        let _ = write!(out, "{ip}");
        return;
    };
    let [a, b, c, d] = ip.octets();
    decimal(out, a.into());
    for octet in [b, c, d] {
        out.push('.');
        decimal(out, octet.into());
    }
}

fn digit(value: u64) -> u8 {
    b'0' + u8::try_from(value).unwrap_or_default()
}

fn push(out: &mut String, digits: &[u8]) {
    out.push_str(std::str::from_utf8(digits).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(write: impl Fn(&mut String)) -> String {
        let mut out = "x".to_owned();
        write(&mut out);
        out
    }

    #[test]
    fn the_ends_are_as_formatted() {
        for value in [0, 9, 10, 99, 100, u64::MAX] {
            assert_eq!(written(|out| decimal(out, value)), format!("x{value}"));
            assert_eq!(written(|out| hex(out, value)), format!("x{value:016x}"));
        }
        for ip in ["0.0.0.0", "255.255.255.255", "127.0.0.1", "::1", "2001:db8::7", "::ffff:10.0.0.1"] {
            assert_eq!(written(|out| address(out, ip.parse().unwrap())), format!("x{ip}"));
        }
    }

    proptest! {
        #[test]
        fn everything_is_as_formatted(value: u64, ip: std::net::Ipv4Addr) {
            prop_assert_eq!(written(|out| decimal(out, value)), format!("x{value}"));
            prop_assert_eq!(written(|out| hex(out, value)), format!("x{value:016x}"));
            prop_assert_eq!(written(|out| three(out, value)), format!("x{:03}", value % 1000));
            prop_assert_eq!(written(|out| address(out, ip.into())), format!("x{ip}"));
        }
    }
}
