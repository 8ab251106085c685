//! The users as administrators see and change them: what the API, the command line and one-time links have in common.
//!
//! Invariants: names are folded before they reach the store; every password passes the rules and is stored as a hash;
//! one-time links are stored as hashes, too. Absent on purpose: who may call (the API's routes decide that).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use skep_identity::{
    Gives, Grant, Grantee, IdentityError, LinkToken, Passwords, Role, Scope, WeakPassword, check_choice, fold,
};
use skep_model::{Secret, UserName};
use skep_store::{GrantRow, Link, LinkPurpose, NewUser, People, Redeemed, StoreError};

use crate::control::now_ms;

/// How long an invitation to choose a password works.
const INVITED_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long the first administrator's link works.
const SET_UP_WITHIN: Duration = Duration::from_secs(24 * 3600);
const MAX_GROUPS: usize = 100;

/// Why a change of the users was not made.
#[derive(Debug, thiserror::Error)]
pub enum RosterError {
    #[error("{0}")]
    Name(String),
    #[error(
        "`{0}` is no name for a group: use 1 to 64 characters without commas, none of them control characters, no white space at the ends"
    )]
    Group(String),
    #[error("a user is in at most {MAX_GROUPS} groups")]
    Groups,
    #[error("{0}")]
    Weak(#[from] WeakPassword),
    #[error("there is a user `{0}` already")]
    Taken(UserName),
    #[error("there is no user `{0}`")]
    NoSuchUser(String),
    #[error("`{0}` is the last administrator; make somebody else one first")]
    LastAdministrator(UserName),
    #[error("too many passwords are being checked; try again in a moment")]
    Busy,
    #[error("this link has been used, has run out, or was replaced by a newer one")]
    NoSuchLink,
    #[error(
        "there is an administrator already; log in, or ask on the server with `skep user add NAME --admin`"
    )]
    SetUpAlready,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// One user, as listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserView {
    pub name: UserName,
    pub admin: bool,
    pub groups: Vec<String>,
    pub disabled: bool,
    /// `false`: was invited and has not chosen one yet.
    pub has_password: bool,
    /// RFC 3339, UTC.
    pub created_at: String,
    pub last_login: Option<String>,
}

/// A user to be.
#[derive(Debug, Clone, Default)]
pub struct Newcomer {
    pub name: String,
    pub admin: bool,
    pub groups: Vec<String>,
    /// `None`: an invitation is made instead.
    pub password: Option<Secret>,
}

/// A one-time link for choosing a password, or for setting up the first administrator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Invitation {
    /// On this server, starting with `/`. Holds a secret.
    pub path: String,
    /// The same with the server's address, as far as it is known.
    pub url: String,
    /// RFC 3339, UTC.
    pub expires_at: String,
}

/// Reads and changes the users. Cheap to clone.
#[derive(Clone)]
pub struct Roster {
    people: People,
    passwords: Passwords,
    /// Where people reach the server, without a slash at its end.
    address: String,
}

impl Roster {
    /// `address`: where people reach the server (`https://apps.example.org`); empty when that is not known.
    pub fn new(people: People, address: &str) -> Self {
        let address = address.trim_end_matches('/').to_owned();
        Self { people, passwords: Passwords::new(skep_identity::cores()), address }
    }

    pub(crate) fn people(&self) -> &People {
        &self.people
    }

    pub(crate) fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    /// Everybody, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn list(&self) -> Result<Vec<UserView>, RosterError> {
        let all = self.people.read().await?;
        let policy = skep_identity::Policy::new(all.grants.iter().filter_map(parse_grant));
        let view = |user: skep_store::UserRow| UserView {
            admin: is_admin(&policy, &user),
            disabled: user.disabled,
            has_password: user.has_password,
            created_at: time_text(user.created_at_ms),
            last_login: user.last_login_ms.map(time_text),
            groups: user.groups,
            name: user.name,
        };
        Ok(all.users.into_iter().map(view).collect())
    }

    /// Adds a user. Without a password: with the invitation to choose one.
    ///
    /// # Errors
    /// When name, groups or password break a rule, the name is taken, or the store cannot be written.
    pub async fn add(&self, newcomer: Newcomer) -> Result<(UserName, Option<Invitation>), RosterError> {
        let Newcomer { name, admin, groups, password } = newcomer;
        let name = user_name(&name)?;
        let groups = checked_groups(groups)?;
        let password_hash = match &password {
            Some(password) => Some(self.hashed(&name, password).await?),
            None => None,
        };
        let grants = if admin { vec![administrator(&name)] } else { Vec::new() };
        let user = NewUser { name: name.clone(), password_hash, groups, grants };
        if !self.people.add(&user, now_ms()).await? {
            return Err(RosterError::Taken(name));
        }
        let invitation = match password {
            Some(_) => None,
            None => Some(self.invite(&name).await?),
        };
        Ok((name, invitation))
    }

    /// Sets a password, which ends the user's logins; without one, makes an invitation to choose one.
    ///
    /// # Errors
    /// When there is no such user, the password breaks a rule, or the store cannot be written.
    pub async fn set_password(
        &self,
        name: &str,
        password: Option<Secret>,
    ) -> Result<Option<Invitation>, RosterError> {
        let name = user_name(name)?;
        let Some(password) = password else {
            if self.people.verifier(name.as_str()).await?.is_none() {
                return Err(RosterError::NoSuchUser(name.to_string()));
            }
            return self.invite(&name).await.map(Some);
        };
        let hash = self.hashed(&name, &password).await?;
        found(self.people.set_password(name.as_str(), &hash, now_ms()).await?, &name)?;
        Ok(None)
    }

    /// Removes a user, which ends their logins.
    ///
    /// # Errors
    /// When there is no such user, or the store cannot be written.
    pub async fn remove(&self, name: &str) -> Result<(), RosterError> {
        let name = user_name(name)?;
        found(self.people.remove(name.as_str()).await?, &name)
    }

    /// Locks a user out, at once, or lets them in again.
    ///
    /// # Errors
    /// When there is no such user, or the store cannot be written.
    pub async fn set_disabled(&self, name: &str, disabled: bool) -> Result<(), RosterError> {
        let name = user_name(name)?;
        found(self.people.set_disabled(name.as_str(), disabled, now_ms()).await?, &name)
    }

    /// Replaces a user's groups.
    ///
    /// # Errors
    /// When there is no such user, a group's name is none, or the store cannot be written.
    pub async fn set_groups(&self, name: &str, groups: Vec<String>) -> Result<(), RosterError> {
        let name = user_name(name)?;
        let groups = checked_groups(groups)?;
        found(self.people.set_groups(name.as_str(), &groups, now_ms()).await?, &name)
    }

    /// Makes a user an administrator, or no longer one.
    ///
    /// # Errors
    /// When there is no such user, or the store cannot be written.
    pub async fn set_admin(&self, name: &str, admin: bool) -> Result<(), RosterError> {
        let name = user_name(name)?;
        found(self.people.verifier(name.as_str()).await?.is_some(), &name)?;
        let grant = administrator(&name);
        match admin {
            true => self.people.grant(&grant, now_ms()).await?,
            false => self.people.ungrant(&grant).await?,
        };
        Ok(())
    }

    /// Ends every login of a user.
    ///
    /// # Errors
    /// When there is no such user, or the store cannot be written.
    pub async fn sign_out(&self, name: &str) -> Result<(), RosterError> {
        let name = user_name(name)?;
        // A login of this very millisecond ends, too.
        found(self.people.sign_out(name.as_str(), now_ms() + 1).await?, &name)
    }

    /// Refuses when nobody but this user could administer the server. For callers that could lock themselves out.
    ///
    /// # Errors
    /// When it is so, or the store cannot be read.
    pub async fn spare_last_administrator(&self, name: &str) -> Result<(), RosterError> {
        let name = user_name(name)?;
        let all = self.list().await?;
        let others = all.iter().any(|user| user.admin && !user.disabled && user.name != name);
        let is_one = all.iter().any(|user| user.admin && user.name == name);
        if is_one && !others { Err(RosterError::LastAdministrator(name)) } else { Ok(()) }
    }

    /// The link that makes its first user the first administrator; `None` when there is one already.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn set_up_link(&self) -> Result<Option<Invitation>, RosterError> {
        if self.list().await?.iter().any(|user| user.admin && !user.disabled) {
            return Ok(None);
        }
        self.link(LinkPurpose::SetUp, SET_UP_WITHIN).await.map(Some)
    }

    /// What a link would do now.
    pub(crate) async fn purpose_of(&self, token: &str) -> Result<LinkPurpose, RosterError> {
        let link = self.people.link(&LinkToken::hash_of(token), now_ms()).await?;
        link.map(|link| link.purpose).ok_or(RosterError::NoSuchLink)
    }

    /// Uses a set-up link.
    pub(crate) async fn set_up(
        &self,
        token: &str,
        name: &str,
        password: &Secret,
    ) -> Result<UserName, RosterError> {
        // Somebody may have become one on the command line meanwhile; then this link must not make another.
        if self.list().await?.iter().any(|user| user.admin && !user.disabled) {
            return Err(RosterError::SetUpAlready);
        }
        let name = user_name(name)?;
        let password_hash = Some(self.hashed(&name, password).await?);
        let grants = vec![administrator(&name)];
        let user = NewUser { name: name.clone(), password_hash, groups: Vec::new(), grants };
        match self.people.set_up(&LinkToken::hash_of(token), &user, now_ms()).await? {
            Redeemed::Done => Ok(name),
            Redeemed::NameTaken => Err(RosterError::Taken(name)),
            Redeemed::NoSuchLink => Err(RosterError::NoSuchLink),
        }
    }

    /// Uses an invitation.
    pub(crate) async fn accept(&self, token: &str, password: &Secret) -> Result<UserName, RosterError> {
        let LinkPurpose::Password(name) = self.purpose_of(token).await? else {
            return Err(RosterError::NoSuchLink);
        };
        let hash = self.hashed(&name, password).await?;
        match self.people.redeem(&LinkToken::hash_of(token), &hash, now_ms()).await? {
            Redeemed::Done => Ok(name),
            Redeemed::NoSuchLink | Redeemed::NameTaken => Err(RosterError::NoSuchLink),
        }
    }

    async fn invite(&self, name: &UserName) -> Result<Invitation, RosterError> {
        self.link(LinkPurpose::Password(name.clone()), INVITED_FOR).await
    }

    async fn link(&self, purpose: LinkPurpose, works_for: Duration) -> Result<Invitation, RosterError> {
        let token = LinkToken::random()?;
        let expires_at_ms = now_ms() + i64::try_from(works_for.as_millis()).unwrap_or(i64::MAX / 2);
        self.people.add_link(&token.hash(), &Link { purpose, expires_at_ms }).await?;
        let path = format!("/_skep/invite?token={}", token.text());
        let url = format!("{}{path}", self.address);
        Ok(Invitation { path, url, expires_at: time_text(expires_at_ms) })
    }

    async fn hashed(&self, name: &UserName, password: &Secret) -> Result<String, RosterError> {
        check_choice(name.as_str(), password.expose())?;
        self.passwords.hash(password.clone()).await.ok_or(RosterError::Busy)
    }
}

/// A login name as it is stored and compared.
pub(crate) fn user_name(text: &str) -> Result<UserName, RosterError> {
    fold(text.trim()).parse().map_err(RosterError::Name)
}

fn found(found: bool, name: &UserName) -> Result<(), RosterError> {
    if found { Ok(()) } else { Err(RosterError::NoSuchUser(name.to_string())) }
}

fn checked_groups(groups: Vec<String>) -> Result<Vec<String>, RosterError> {
    let bad = |group: &String| {
        let length = group.chars().count();
        // Apps get the groups as a list with commas.
        !(1..=64).contains(&length)
            || group.trim() != group
            || group.chars().any(|c| c == ',' || c.is_control())
    };
    if groups.len() > MAX_GROUPS {
        return Err(RosterError::Groups);
    }
    match groups.iter().find(|group| bad(group)) {
        Some(group) => Err(RosterError::Group(group.chars().take(80).collect())),
        None => Ok(groups),
    }
}

fn administrator(name: &UserName) -> GrantRow {
    let grant = Grant {
        to: Grantee::User(name.as_str().to_owned()),
        gives: Gives::Role(Role::Administrator),
        on: Scope::Everything,
    };
    grant_row(&grant)
}

pub(crate) fn grant_row(grant: &Grant) -> GrantRow {
    let Grant { to, gives, on } = grant;
    GrantRow { grantee: to.to_string(), gives: gives.to_string(), scope: on.to_string() }
}

/// A stored grant. One this version does not understand (a newer one wrote it) gives nothing.
pub(crate) fn parse_grant(row: &GrantRow) -> Option<Grant> {
    let parse = || {
        Ok::<_, String>(Grant { to: row.grantee.parse()?, gives: row.gives.parse()?, on: row.scope.parse()? })
    };
    parse().inspect_err(|reason| tracing::warn!(%reason, "a grant is not understood and gives nothing")).ok()
}

fn is_admin(policy: &skep_identity::Policy, user: &skep_store::UserRow) -> bool {
    let who = skep_model::Principal::User { name: user.name.clone(), groups: user.groups.clone() };
    policy.permissions(&who).contains(skep_identity::Permission::UsersWrite)
}

/// Milliseconds since the Unix epoch as RFC 3339 in UTC.
fn time_text(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms).unwrap_or_default().to_string()
}
