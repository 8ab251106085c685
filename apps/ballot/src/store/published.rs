//! Publishing a final result, and reading it back.
//!
//! A poll is final when it is closed and every log that is not given up has been taken beyond the moment of closing.
//! Then the votes are recounted, compared with the tally, and published with a signed root, once.

use std::collections::BTreeMap;

use sqlx::{Connection, Row};

use super::{Database, Engine, StoreError, sql, unsigned};
use crate::hlc;
use crate::ids::{BallotTag, OptionId, PollId};
use crate::keys::Keys;
use crate::polls::Poll;
use crate::proof::{Leaf, Statement, Tree, hex};

/// What the database says of one ballot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Replaced by a later ballot of the same voter.
    Replaced,
    /// Came in after the result was published.
    Late,
    Unknown,
}

impl Database {
    /// Publishes the poll's result if it is closed, unpublished, and every log is settled. Answers whether it did.
    ///
    /// # Errors
    /// `Odd` when the tally and the recount differ: then nothing is published.
    pub async fn publish(&self, poll: &Poll, keys: &Keys, now_ms: u64) -> Result<bool, StoreError> {
        if !poll.is_closed(now_ms) {
            return Ok(false);
        }
        let mut connection = self.any.acquire().await?;
        let begin = if matches!(self.engine, Engine::Sqlite(_)) { "begin immediate" } else { "begin" };
        let mut tx = connection.begin_with(begin).await?;
        // Takes the poll's row first: a worker that merges into this poll shares it until its batch is in, so each
        // statement from here on sees every batch that ever comes in before the result is published.
        sqlx::query("update polls set definition = definition where id = $1")
            .bind(poll.id.as_str())
            .execute(&mut *tx)
            .await?;
        let closing = super::signed(hlc::at_millis(poll.closes_ms));
        let row = sqlx::query(sql::UNSETTLED).bind(closing).fetch_one(&mut *tx).await?;
        if unsigned(&row, "n")? > 0 {
            return Ok(false);
        }
        let rows = sqlx::query(sql::VOTES).bind(poll.id.as_str()).fetch_all(&mut *tx).await?;
        let mut leaves = Vec::with_capacity(rows.len());
        for row in &rows {
            leaves.push(leaf(row.try_get("choice")?, row.try_get("tag")?)?);
        }
        let mut counts: BTreeMap<OptionId, u64> = poll.options.iter().map(|o| (o.id.clone(), 0)).collect();
        for leaf in &leaves {
            *counts.entry(leaf.option.clone()).or_default() += 1;
        }
        for row in sqlx::query(sql::RECOUNT).bind(poll.id.as_str()).fetch_all(&mut *tx).await? {
            let (tallied, counted) = (unsigned(&row, "tallied")?, unsigned(&row, "counted")?);
            if tallied != counted {
                let choice: String = row.try_get("choice")?;
                return Err(StoreError::Odd(format!(
                    "{}: {choice} is tallied {tallied} and counted {counted}",
                    poll.id
                )));
            }
        }
        let tree = Tree::new(poll.id.clone(), leaves);
        let statement = Statement {
            poll: poll.id.clone(),
            question: poll.question.clone(),
            closed_ms: poll.closes_ms,
            published_ms: now_ms,
            voters: tree.leaves().len() as u64,
            counts,
            root: hex(&tree.root()),
            public_key: String::new(),
            signature: String::new(),
        }
        .sign(keys);
        let text = serde_json::to_string(&statement).map_err(|e| StoreError::Odd(e.to_string()))?;
        let done = sqlx::query(sql::PUBLISH)
            .bind(poll.id.as_str())
            .bind(super::signed(now_ms))
            .bind(text)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(done.rows_affected() > 0)
    }

    /// The published statement of a final poll.
    ///
    /// # Errors
    /// As the database reports.
    pub async fn statement(&self, poll: &PollId) -> Result<Option<Statement>, StoreError> {
        let row = sqlx::query(sql::STATEMENT).bind(poll.as_str()).fetch_optional(&self.any).await?;
        let Some(row) = row else { return Ok(None) };
        let text: Option<String> = row.try_get("statement")?;
        text.map(|t| serde_json::from_str(&t).map_err(|e| StoreError::Odd(e.to_string()))).transpose()
    }

    /// The counted ballots, sorted by tag.
    ///
    /// # Errors
    /// As the database reports.
    pub async fn leaves(&self, poll: &PollId) -> Result<Vec<Leaf>, StoreError> {
        let rows = sqlx::query(sql::VOTES).bind(poll.as_str()).fetch_all(&self.any).await?;
        let mut leaves = Vec::with_capacity(rows.len());
        for row in &rows {
            leaves.push(leaf(row.try_get("choice")?, row.try_get("tag")?)?);
        }
        leaves.sort_unstable();
        Ok(leaves)
    }

    /// What became of a ballot that is not counted.
    ///
    /// # Errors
    /// As the database reports.
    pub async fn uncounted(&self, poll: &PollId, tag: BallotTag) -> Result<Standing, StoreError> {
        let find = |text| sqlx::query(text).bind(poll.as_str()).bind(tag.0.to_vec());
        if find(sql::IS_REPLACED).fetch_optional(&self.any).await?.is_some() {
            return Ok(Standing::Replaced);
        }
        if find(sql::IS_LATE).fetch_optional(&self.any).await?.is_some() {
            return Ok(Standing::Late);
        }
        Ok(Standing::Unknown)
    }

    /// Ballots that came in after the result was published.
    ///
    /// # Errors
    /// As the database reports.
    pub async fn late(&self, poll: &PollId) -> Result<u64, StoreError> {
        unsigned(&sqlx::query(sql::LATE).bind(poll.as_str()).fetch_one(&self.any).await?, "n")
    }
}

fn leaf(choice: String, tag: Vec<u8>) -> Result<Leaf, StoreError> {
    Ok(Leaf {
        tag: BallotTag::from_slice(&tag).ok_or_else(|| StoreError::Odd("a ballot's tag".to_owned()))?,
        option: OptionId::try_from(choice).map_err(|e| StoreError::Odd(e.to_string()))?,
    })
}
