//! The framing of what a container without a terminal writes: `[source, 0, 0, 0, length as u32 big-endian]`, payload.

use bytes::{Buf, Bytes};

/// Which of its outputs a container wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    Stdin,
    Stdout,
    Stderr,
    /// The engine itself has something to say.
    Engine,
}

/// A piece of output. A long frame comes in several pieces, as it arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub source: Source,
    pub bytes: Bytes,
}

/// The bytes are no frames: most likely the container has a terminal and writes them raw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame begins with {0:#04x}, which is no output of a container")]
pub struct NotFrames(pub u8);

/// Takes frames apart, wherever the chunks of the connection end. Holds at most one header, never a payload.
#[derive(Debug, Default)]
pub struct Demux {
    header: [u8; 8],
    /// Bytes of the header that are there.
    have: usize,
    current: Option<Source>,
    /// Payload bytes of the current frame still to come.
    left: usize,
}

impl Demux {
    /// # Errors
    /// When a header names no known source. Nothing sensible can follow.
    pub fn push(&mut self, mut chunk: Bytes) -> Result<Vec<Frame>, NotFrames> {
        let mut frames = Vec::new();
        while chunk.has_remaining() {
            if let Some(source) = self.current {
                let bytes = chunk.split_to(self.left.min(chunk.len()));
                self.left -= bytes.len();
                if self.left == 0 {
                    self.current = None;
                }
                frames.push(Frame { source, bytes });
                continue;
            }
            let take = (8 - self.have).min(chunk.len());
            self.header[self.have..self.have + take].copy_from_slice(&chunk[..take]);
            self.have += take;
            chunk.advance(take);
            let source = match self.header[0] {
                0 => Source::Stdin,
                1 => Source::Stdout,
                2 => Source::Stderr,
                3 => Source::Engine,
                other => return Err(NotFrames(other)),
            };
            if self.have == 8 {
                self.have = 0;
                let [.., a, b, c, d] = self.header;
                self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                // An empty frame carries nothing to wait for.
                self.current = (self.left > 0).then_some(source);
            }
        }
        Ok(frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(parts: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut all = Vec::new();
        for (source, payload) in parts {
            all.extend([*source, 0, 0, 0]);
            all.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
            all.extend(payload);
        }
        all
    }

    #[test]
    fn what_is_no_frame_is_refused_at_its_first_byte() {
        assert_eq!(Demux::default().push(Bytes::from_static(b"hello")), Err(NotFrames(b'h')));
        let mut demux = Demux::default();
        // A frame that claims 4 GiB holds nothing back and needs no memory.
        let frames = demux.push(Bytes::from_static(b"\x01\0\0\0\xff\xff\xff\xffabc")).unwrap();
        assert_eq!(frames, [Frame { source: Source::Stdout, bytes: Bytes::from_static(b"abc") }]);
        assert_eq!(demux.push(Bytes::new()), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_output(
            parts in prop::collection::vec((1_u8..3, prop::collection::vec(any::<u8>(), 0..40)), 0..12),
            cuts in prop::collection::vec(1_usize..30, 0..60),
        ) {
            let all = Bytes::from(framed(&parts));
            let mut demux = Demux::default();
            let mut seen: [Vec<u8>; 2] = Default::default();
            let (mut at, mut cuts) = (0, cuts.into_iter());
            while at < all.len() {
                let end = (at + cuts.next().unwrap_or(usize::MAX / 2)).min(all.len());
                for frame in demux.push(all.slice(at..end)).unwrap() {
                    seen[usize::from(frame.source == Source::Stderr)].extend(&frame.bytes);
                }
                at = end;
            }
            for source in [1_u8, 2] {
                let sent: Vec<u8> = parts.iter().filter(|p| p.0 == source).flat_map(|p| p.1.clone()).collect();
                prop_assert_eq!(&seen[usize::from(source) - 1], &sent);
            }
        }

        #[test]
        fn no_input_makes_it_panic(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20)) {
            let mut demux = Demux::default();
            for chunk in chunks {
                if demux.push(Bytes::from(chunk)).is_err() {
                    break;
                }
            }
        }
    }
}
