//! Tells a visitor's doing from a browser's heartbeat in a WebSocket's client-to-server bytes.
//!
//! Reads frame headers only, wherever the bytes happen to be cut; keeps no payload. Pure.

/// Where the scan stands between two reads.
#[derive(Debug, Clone, Default)]
pub(crate) struct FrameScan {
    header: [u8; 14],
    have: u8,
    /// Payload bytes still to skip.
    skip: u64,
}

impl FrameScan {
    /// Takes the next bytes. True when a frame began in them that only a visitor causes: data, but neither control frames
    /// (ping, pong, close) nor one-byte texts, which is how Engine.IO answers its server's ping.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> bool {
        let mut active = false;
        while !bytes.is_empty() {
            if self.skip > 0 {
                let n = bytes.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
                self.skip -= n as u64;
                bytes = bytes.get(n..).unwrap_or_default();
                continue;
            }
            let have = usize::from(self.have);
            let missing = self.header_len().saturating_sub(have);
            let n = missing.min(bytes.len());
            let (head, rest) = bytes.split_at_checked(n).unwrap_or((bytes, &[]));
            if let Some(room) = self.header.get_mut(have..have + n) {
                room.copy_from_slice(head);
            }
            self.have += u8::try_from(n).unwrap_or(0);
            bytes = rest;
            if usize::from(self.have) == self.header_len() {
                active |= self.end_header();
            }
        }
        active
    }

    /// How long the header is, as far as is known yet.
    fn header_len(&self) -> usize {
        if self.have < 2 {
            return 2;
        }
        let [_, second, ..] = self.header;
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + extended + if second & 0x80 != 0 { 4 } else { 0 }
    }

    fn end_header(&mut self) -> bool {
        let [first, second, a, b, c, d, e, f, g, h, ..] = self.header;
        let len = match second & 0x7f {
            126 => u64::from(u16::from_be_bytes([a, b])),
            127 => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            short => u64::from(short),
        };
        self.have = 0;
        self.skip = len;
        let opcode = first & 0x0f;
        let control = opcode & 0x08 != 0;
        !(control || (opcode == 1 && len == 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(opcode: u8, len: usize) -> Vec<u8> {
        let mut bytes = vec![0x80 | opcode];
        match len {
            0..126 => bytes.push(0x80 | u8::try_from(len).unwrap()),
            126..0x1_0000 => {
                bytes.push(0x80 | 126);
                bytes.extend(u16::try_from(len).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(0x80 | 127);
                bytes.extend((len as u64).to_be_bytes());
            }
        }
        bytes.extend([1, 2, 3, 4]);
        // Payload that would read as a data frame if the scan lost its place.
        bytes.extend(std::iter::repeat_n(0x82, len));
        bytes
    }

    #[test]
    fn heartbeats_are_no_activity() {
        for (opcode, len, active) in [
            (9, 0, false),
            (10, 125, false),
            (8, 2, false),
            (1, 1, false),
            (1, 2, true),
            (2, 1, true),
            (0, 1, true),
            (2, 70_000, true),
            (1, 0, true),
        ] {
            assert_eq!(FrameScan::default().feed(&frame(opcode, len)), active, "{opcode} {len}");
        }
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            frames in proptest::collection::vec((prop_oneof![Just(1_u8), Just(2), Just(8), Just(9), Just(10)], 0_usize..70_000), 1..5),
            cut in 1_usize..3000,
        ) {
            let expected = frames.iter().any(|&(opcode, len)| opcode < 8 && !(opcode == 1 && len == 1));
            let bytes: Vec<u8> = frames.iter().flat_map(|&(opcode, len)| frame(opcode, len)).collect();
            let mut scan = FrameScan::default();
            let mut active = false;
            for piece in bytes.chunks(cut) {
                active |= scan.feed(piece);
            }
            prop_assert_eq!(active, expected);
            prop_assert_eq!((scan.have, scan.skip), (0, 0));
        }

        #[test]
        fn hostile_bytes_do_not_break_the_scan(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            FrameScan::default().feed(&bytes);
        }
    }
}
