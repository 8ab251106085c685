//! The receipt of an acknowledged ballot.
//!
//! It holds a secret that only the voter has; the ballot carries the secret's hash, its [`BallotTag`]. When the counted
//! ballots are published by tag, the holder finds their own and nobody else can tell whose it is. The receipt also holds
//! a keyed checksum over poll, tag and option: a deployment recognises its own promise, and a made-up receipt is told
//! from one whose ballot is missing.
//!
//! Absent: the option. Whoever sees the receipt and the published list can, however, look it up; a receipt is therefore
//! to be kept as private as the vote (see docs/ballot.md on coercion).

use crate::ids::{BallotTag, OptionId, PollId};
use crate::keys::{Keys, sha256};
use crate::ticket::{spell, unspell};

/// The first letters of every receipt.
const PREFIX: &str = "bt1";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    pub poll: PollId,
    secret: [u8; 16],
    mac: [u8; 8],
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not a receipt: it should look like bt1.<poll>.<letters and digits>")]
pub struct NotAReceipt;

/// The public name of the ballot whose receipt holds `secret`.
pub fn tag(poll: &PollId, secret: &[u8; 16]) -> BallotTag {
    let hash = sha256(&[b"ballot/1/tag/", poll.as_str().as_bytes(), b"/", secret]);
    let mut out = [0; 16];
    out.copy_from_slice(&hash[..16]);
    BallotTag(out)
}

fn mac(keys: &Keys, poll: &PollId, tag: BallotTag, option: &OptionId) -> [u8; 8] {
    keys.receipt_mac(&[poll.as_str().as_bytes(), b"/", &tag.0, option.as_str().as_bytes()])
}

impl Receipt {
    pub fn issue(keys: &Keys, poll: &PollId, secret: [u8; 16], option: &OptionId) -> Self {
        let mac = mac(keys, poll, tag(poll, &secret), option);
        Self { poll: poll.clone(), secret, mac }
    }

    pub fn tag(&self) -> BallotTag {
        tag(&self.poll, &self.secret)
    }

    /// Which of these options this deployment promised to record, if it issued this receipt at all.
    pub fn promised<'a>(
        &self,
        keys: &Keys,
        options: impl IntoIterator<Item = &'a OptionId>,
    ) -> Option<&'a OptionId> {
        let tag = self.tag();
        options.into_iter().find(|option| crate::keys::same(&mac(keys, &self.poll, tag, option), &self.mac))
    }
}

impl std::fmt::Display for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut bytes = self.secret.to_vec();
        bytes.extend_from_slice(&self.mac);
        write!(f, "{PREFIX}.{}.{}", self.poll, spell(&bytes))
    }
}

impl std::str::FromStr for Receipt {
    type Err = NotAReceipt;

    fn from_str(text: &str) -> Result<Self, NotAReceipt> {
        let mut parts = text.trim().splitn(3, '.');
        let (Some(PREFIX), Some(poll), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NotAReceipt);
        };
        let poll = PollId::try_from(poll).map_err(|_| NotAReceipt)?;
        let bytes = unspell(rest, 24).ok_or(NotAReceipt)?;
        let (secret, mac) = bytes.split_at(16);
        Ok(Self {
            poll,
            secret: secret.try_into().map_err(|_| NotAReceipt)?,
            mac: mac.try_into().map_err(|_| NotAReceipt)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_receipt_is_read_back_and_names_its_option(secret in any::<[u8; 16]>()) {
            let keys = Keys::from_bytes(&[5; 32]).expect("keys");
            let poll = PollId::try_from("pets").expect("id");
            let options: Vec<OptionId> = ["cats", "dogs"].map(|o| OptionId::try_from(o).expect("id")).into();
            let receipt = Receipt::issue(&keys, &poll, secret, &options[1]);
            let read: Receipt = receipt.to_string().parse().expect("a receipt");
            prop_assert_eq!(&read, &receipt);
            prop_assert_eq!(read.tag(), tag(&poll, &secret));
            prop_assert_eq!(read.promised(&keys, &options), Some(&options[1]));
            let other = Keys::from_bytes(&[6; 32]).expect("keys");
            prop_assert_eq!(read.promised(&other, &options), None);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(bt1\\.)?.{0,80}") {
            let _ = text.parse::<Receipt>();
        }
    }
}
