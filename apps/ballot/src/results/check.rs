//! What a receipt says about the count.

use serde::{Deserialize, Serialize};

use super::Results;
use crate::ids::OptionId;
use crate::proof::{Leaf, Statement, Step, climb, hex};
use crate::receipt::Receipt;
use crate::store::StoreError;
use crate::store::published::Standing;

/// What became of the ballot behind a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It is in the published count.
    Counted,
    /// A later ballot of the same voter (or an earlier one, where the first counts) took its place.
    Replaced,
    /// It came in after the result was published, from a front that had been given up.
    Late,
    /// The receipt is genuine, and the count is not final yet.
    NotFinal,
    /// The receipt is genuine, and the ballot is not in the count: something is wrong.
    Missing,
    /// This deployment never issued it.
    NotIssued,
}

impl Fate {
    /// In words.
    pub fn says(self) -> &'static str {
        match self {
            Self::Counted => "Your vote is in the count.",
            Self::Replaced => "This vote was replaced: another vote with the same identity counts instead.",
            Self::Late => "This vote arrived after the result had been published, and is not in the count.",
            Self::NotFinal => {
                "The receipt is genuine. The count is not final yet; check again after the poll closes."
            }
            Self::Missing => {
                "The receipt is genuine, but the vote is NOT in the count. Show it to whoever runs the poll."
            }
            Self::NotIssued => "This receipt was not issued here, or was copied with a mistake.",
        }
    }
}

/// The answer to a receipt, with all that is needed to verify it elsewhere.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Checked {
    pub fate: Fate,
    pub says: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub option: Option<OptionId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<Step>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<Statement>,
}

impl Checked {
    fn plain(fate: Fate) -> Self {
        Self { fate, says: fate.says().to_owned(), option: None, path: Vec::new(), statement: None }
    }

    /// Verifies a `Counted` answer without trusting who gave it: the path must lead from the receipt's own ballot to
    /// the root that the statement signs.
    ///
    /// # Errors
    /// Says what does not agree.
    pub fn verify(&self, receipt: &Receipt) -> Result<(), String> {
        if self.fate != Fate::Counted {
            return Ok(());
        }
        let (Some(option), Some(statement)) = (&self.option, &self.statement) else {
            return Err("the answer has no option or no statement".to_owned());
        };
        if statement.poll != receipt.poll {
            return Err("the statement is of another poll".to_owned());
        }
        let leaf = Leaf { tag: receipt.tag(), option: option.clone() };
        let root = climb(&receipt.poll, &leaf, &self.path).map(|h| hex(&h));
        if root.as_deref() != Some(statement.root.as_str()) {
            return Err("the path does not lead to the published root".to_owned());
        }
        if !statement.signature_holds() {
            return Err("the statement's signature does not hold".to_owned());
        }
        Ok(())
    }
}

impl Results {
    /// Looks a receipt up.
    ///
    /// # Errors
    /// As the database reports.
    pub async fn check(&self, receipt: &Receipt) -> Result<Checked, StoreError> {
        let Some((poll, is_final)) = self.store.poll(&receipt.poll).await? else {
            return Ok(Checked::plain(Fate::NotIssued));
        };
        let promised = receipt.promised(&self.keys, poll.options.iter().map(|c| &c.id)).cloned();
        let Some(promised) = promised else { return Ok(Checked::plain(Fate::NotIssued)) };
        let statement = if is_final { self.store.statement(&poll.id).await? } else { None };
        let Some(statement) = statement else { return Ok(Checked::plain(Fate::NotFinal)) };
        let tree = self.tree(&poll.id).await?;
        let mut checked = match tree.path(receipt.tag()) {
            // A ballot that is counted for something else is as bad as one that is missing.
            Some((leaf, path)) if leaf.option == promised => {
                Checked { option: Some(promised), path, ..Checked::plain(Fate::Counted) }
            }
            Some(_) => Checked::plain(Fate::Missing),
            None => match self.store.uncounted(&poll.id, receipt.tag()).await? {
                Standing::Replaced => Checked::plain(Fate::Replaced),
                Standing::Late => Checked::plain(Fate::Late),
                Standing::Unknown => Checked::plain(Fate::Missing),
            },
        };
        checked.statement = Some(statement);
        Ok(checked)
    }
}
