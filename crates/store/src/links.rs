//! One-time links: the first administrator's set-up, and setting a password one was invited to choose.
//!
//! Invariants: a link works once, until it expires, and only the newest for the same purpose and user does; what it does
//! and its end are one transaction. Only a hash of what the link holds is stored.

use skep_model::UserName;

use crate::journal::column;
use crate::people::{NewUser, People, failed, insert_user, set_password};
use crate::{StoreError, sql_people as sql};

/// What a link is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkPurpose {
    /// Creates the first administrator.
    SetUp,
    /// Sets this user's password.
    Password(UserName),
}

/// A link that would work now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub purpose: LinkPurpose,
    pub expires_at_ms: i64,
}

/// What came of using a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redeemed {
    Done,
    /// Used already, expired, replaced, or never there.
    NoSuchLink,
    /// The user it wants to create is there already. The link still works.
    NameTaken,
}

const SET_UP: &str = "set-up";
const PASSWORD: &str = "password";

impl People {
    /// Stores a link and voids earlier ones for the same.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn add_link(&self, token_hash: &str, link: &Link) -> Result<(), StoreError> {
        let (purpose, user) = match &link.purpose {
            LinkPurpose::SetUp => (SET_UP, None),
            LinkPurpose::Password(name) => (PASSWORD, Some(name.as_str().to_owned())),
        };
        let mut change = self.change("store a one-time link").await?;
        change.run(sql::LINKS_VOID, |q| q.bind(purpose).bind(user.clone())).await?;
        let expires = link.expires_at_ms;
        let hash = token_hash.to_owned();
        change.run(sql::LINK_ADD, |q| q.bind(hash).bind(purpose).bind(user).bind(expires)).await?;
        change.commit().await
    }

    /// What a link would do, if it would work now.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn link(&self, token_hash: &str, now_ms: i64) -> Result<Option<Link>, StoreError> {
        let what = "read a one-time link";
        let query = sqlx::query(sql::LINK).bind(token_hash.to_owned()).bind(now_ms);
        let Some(row) = query.fetch_optional(&self.reader).await.map_err(failed(what))? else {
            return Ok(None);
        };
        let user: Option<String> = column(&row, "user_name", what)?;
        let purpose: String = column(&row, "purpose", what)?;
        let unreadable = |reason| StoreError::Row { what, reason };
        let purpose = match (purpose.as_str(), user) {
            (SET_UP, None) => LinkPurpose::SetUp,
            (PASSWORD, Some(user)) => LinkPurpose::Password(user.parse().map_err(unreadable)?),
            (other, _) => return Err(unreadable(format!("no link is for `{other}`"))),
        };
        Ok(Some(Link { purpose, expires_at_ms: column(&row, "expires_at_ms", what)? }))
    }

    /// Uses a set-up link: creates the user, the link is gone.
    ///
    /// # Errors
    /// When the store cannot be written; nothing has happened then.
    pub async fn set_up(
        &self,
        token_hash: &str,
        user: &NewUser,
        now_ms: i64,
    ) -> Result<Redeemed, StoreError> {
        let mut change = self.change("set up the first administrator").await?;
        let take = |q: crate::people::Query| q.bind(token_hash.to_owned()).bind(SET_UP).bind(now_ms);
        if change.row(sql::LINK_TAKE, take).await?.is_none() {
            return Ok(Redeemed::NoSuchLink);
        }
        if !insert_user(&mut change, user, now_ms).await? {
            return Ok(Redeemed::NameTaken);
        }
        change.commit().await?;
        Ok(Redeemed::Done)
    }

    /// Uses a password link: sets the password of the user it was made for, the link is gone.
    ///
    /// # Errors
    /// When the store cannot be written; nothing has happened then.
    pub async fn redeem(&self, token_hash: &str, hash: &str, now_ms: i64) -> Result<Redeemed, StoreError> {
        let what = "set a password by a one-time link";
        let mut change = self.change(what).await?;
        let take = |q: crate::people::Query| q.bind(token_hash.to_owned()).bind(PASSWORD).bind(now_ms);
        let Some(row) = change.row(sql::LINK_TAKE, take).await? else { return Ok(Redeemed::NoSuchLink) };
        let user: Option<String> = column(&row, "user_name", what)?;
        if !set_password(&mut change, user.as_deref().unwrap_or_default(), hash, now_ms).await? {
            return Ok(Redeemed::NoSuchLink);
        }
        change.commit().await?;
        Ok(Redeemed::Done)
    }
}
