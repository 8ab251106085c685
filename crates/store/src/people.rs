//! Users, their groups, grants, and logins that were ended.
//!
//! Invariants: every change is one transaction that counts up the version, so that a server which saw a version has seen
//! everything up to it; names are stored as given by the caller, who folds them. Absent on purpose: what a grant means,
//! how a password is checked (`identity`).

use serde::Serialize;
use skep_model::UserName;
use sqlx::any::AnyRow;
use sqlx::{Any, AnyPool, Transaction};

use crate::journal::column;
use crate::{StoreError, sql_people as sql};

/// A user, without the password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UserRow {
    pub name: UserName,
    pub has_password: bool,
    pub disabled: bool,
    pub created_at_ms: i64,
    /// Logins from before this time do not count any more.
    #[serde(skip)]
    pub not_before_ms: i64,
    pub last_login_ms: Option<i64>,
    pub groups: Vec<String>,
}

/// A grant in its stored form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct GrantRow {
    pub grantee: String,
    pub gives: String,
    pub scope: String,
}

/// Everything a server needs to admit people, as of one version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Everybody {
    pub version: i64,
    pub users: Vec<UserRow>,
    pub grants: Vec<GrantRow>,
    /// Ended logins, and until when each must be remembered.
    pub revocations: Vec<(String, i64)>,
    pub shares: Vec<ShareRow>,
}

/// An instance whose owner lets others in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareRow {
    pub instance: String,
    pub since_ms: i64,
    pub until_ms: i64,
}

/// What a password is checked against.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub hash: Option<String>,
    pub disabled: bool,
    pub not_before_ms: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewUser {
    pub name: UserName,
    pub password_hash: Option<String>,
    pub groups: Vec<String>,
    pub grants: Vec<GrantRow>,
}

/// Reads and writes who may come in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct People {
    pub(crate) writer: AnyPool,
    pub(crate) reader: AnyPool,
}

impl People {
    pub(crate) fn new(writer: AnyPool, reader: AnyPool) -> Self {
        Self { writer, reader }
    }

    /// Changes with every change of users, groups, grants and ended logins.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn version(&self) -> Result<i64, StoreError> {
        let what = "read the version of the users";
        let row = sqlx::query(sql::VERSION).fetch_one(&self.reader).await.map_err(failed(what))?;
        column(&row, "version", what)
    }

    /// Reads everybody. Whatever changes meanwhile has a later version than the one in the answer.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn read(&self) -> Result<Everybody, StoreError> {
        let what = "read the users";
        let version = self.version().await?;
        let rows = |statement| sqlx::query(statement).fetch_all(&self.reader);
        let users = rows(sql::USERS).await.map_err(failed(what))?;
        let mut users = users.iter().map(|row| user(row, what)).collect::<Result<Vec<_>, _>>()?;
        // Both lists are sorted by name, but perhaps not in the same order: engines have their own idea of it.
        users.sort_by(|a, b| a.name.cmp(&b.name));
        for row in rows(sql::MEMBERSHIPS).await.map_err(failed(what))? {
            let name: String = column(&row, "user_name", what)?;
            if let Ok(at) = users.binary_search_by(|user| user.name.as_str().cmp(&name)) {
                let groups = users.get_mut(at).map(|user| &mut user.groups);
                groups
                    .into_iter()
                    .try_for_each(|groups| column(&row, "group_name", what).map(|g| groups.push(g)))?;
            }
        }
        let grants = rows(sql::GRANTS).await.map_err(failed(what))?;
        let grants = grants.iter().map(|row| grant(row, what)).collect::<Result<Vec<_>, _>>()?;
        let revocations = rows(sql::REVOCATIONS).await.map_err(failed(what))?;
        let revocations = revocations
            .iter()
            .map(|row| Ok((column(row, "session_id", what)?, column(row, "until_ms", what)?)))
            .collect::<Result<Vec<_>, StoreError>>()?;
        let shares = rows(sql::SHARES).await.map_err(failed(what))?;
        let shares = shares.iter().map(|row| share(row, what)).collect::<Result<Vec<_>, _>>()?;
        Ok(Everybody { version, users, grants, revocations, shares })
    }

    /// What a user's password is checked against; `None`: no such user.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn verifier(&self, name: &str) -> Result<Option<Verifier>, StoreError> {
        let what = "read a user";
        let row = sqlx::query(sql::USER_HASH).bind(name.to_owned()).fetch_optional(&self.reader).await;
        let Some(row) = row.map_err(failed(what))? else { return Ok(None) };
        Ok(Some(Verifier {
            hash: column(&row, "password_hash", what)?,
            disabled: column::<i64>(&row, "disabled", what)? != 0,
            not_before_ms: column(&row, "not_before_ms", what)?,
        }))
    }

    /// Adds a user with groups and grants; `false`, and nothing written, when the name is taken.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn add(&self, user: &NewUser, now_ms: i64) -> Result<bool, StoreError> {
        let mut change = self.change("add a user").await?;
        let added = insert_user(&mut change, user, now_ms).await?;
        if added {
            change.commit().await?;
        }
        Ok(added)
    }

    /// Removes a user with all grants and memberships; their usage stays without a name. `false`: no such user.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn remove(&self, name: &str) -> Result<bool, StoreError> {
        let mut change = self.change("remove a user").await?;
        let gone = change.run(sql::USER_REMOVE, |q| q.bind(name.to_owned())).await?;
        change.run(sql::GRANTEE_REMOVE, |q| q.bind(format!("user:{name}"))).await?;
        for statement in [sql::USAGE_ANONYMISE, sql::USAGE_FORGET, sql::FAVOURITES_CLEAR] {
            change.run(statement, |q| q.bind(name.to_owned())).await?;
        }
        change.run(sql::GROUPS_TIDY, |q| q).await?;
        change.commit().await?;
        Ok(gone > 0)
    }

    /// Sets a password, which ends every login made before. `false`: no such user.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn set_password(&self, name: &str, hash: &str, now_ms: i64) -> Result<bool, StoreError> {
        let mut change = self.change("set a password").await?;
        let set = set_password(&mut change, name, hash, now_ms).await?;
        change.commit().await?;
        Ok(set)
    }

    /// Replaces a hash by another of the same password; nothing happens when it has changed meanwhile.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn rehash(&self, name: &str, old: &str, new: &str) -> Result<(), StoreError> {
        let query =
            sqlx::query(sql::USER_REHASH).bind(name.to_owned()).bind(old.to_owned()).bind(new.to_owned());
        query.execute(&self.writer).await.map_err(failed("renew a password's hash"))?;
        Ok(())
    }

    /// Locks a user out, at once, or lets them in again. `false`: no such user.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn set_disabled(&self, name: &str, disabled: bool, now_ms: i64) -> Result<bool, StoreError> {
        let mut change = self.change("disable a user").await?;
        let bind = |q: Query| q.bind(name.to_owned()).bind(i64::from(disabled)).bind(now_ms);
        let changed = change.run(sql::USER_DISABLE, bind).await?;
        change.commit().await?;
        Ok(changed > 0)
    }

    /// Ends every login of a user made before now. `false`: no such user.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn sign_out(&self, name: &str, now_ms: i64) -> Result<bool, StoreError> {
        let mut change = self.change("sign a user out").await?;
        let changed = change.run(sql::USER_SIGN_OUT, |q| q.bind(name.to_owned()).bind(now_ms)).await?;
        change.commit().await?;
        Ok(changed > 0)
    }

    /// Notes a login.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn logged_in(&self, name: &str, now_ms: i64) -> Result<(), StoreError> {
        let query = sqlx::query(sql::USER_LOGGED_IN).bind(name.to_owned()).bind(now_ms);
        query.execute(&self.writer).await.map_err(failed("note a login"))?;
        Ok(())
    }

    /// Replaces a user's groups. Groups come with their first member and go with their last, unless something is granted
    /// to them. `false`: no such user.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn set_groups(&self, name: &str, groups: &[String], now_ms: i64) -> Result<bool, StoreError> {
        if self.verifier(name).await?.is_none() {
            return Ok(false);
        }
        let mut change = self.change("set a user's groups").await?;
        change.run(sql::MEMBERSHIPS_CLEAR, |q| q.bind(name.to_owned())).await?;
        insert_groups(&mut change, name, groups, now_ms).await?;
        change.run(sql::GROUPS_TIDY, |q| q).await?;
        change.commit().await?;
        Ok(true)
    }

    /// Adds a grant; `false` when it was there already.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn grant(&self, grant: &GrantRow, now_ms: i64) -> Result<bool, StoreError> {
        let mut change = self.change("add a grant").await?;
        let added = insert_grant(&mut change, grant, now_ms).await?;
        change.commit().await?;
        Ok(added > 0)
    }

    /// Takes a grant back; `false` when there was none.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn ungrant(&self, grant: &GrantRow) -> Result<bool, StoreError> {
        let mut change = self.change("take a grant back").await?;
        let GrantRow { grantee, gives, scope } = grant.clone();
        let gone = change.run(sql::GRANT_REMOVE, |q| q.bind(grantee).bind(gives).bind(scope)).await?;
        change.run(sql::GROUPS_TIDY, |q| q).await?;
        change.commit().await?;
        Ok(gone > 0)
    }

    /// Ends one login. `until_ms`: when it would have ended by itself.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn revoke(&self, session: &str, until_ms: i64) -> Result<(), StoreError> {
        let mut change = self.change("end a login").await?;
        change.run(sql::REVOCATION_ADD, |q| q.bind(session.to_owned()).bind(until_ms)).await?;
        change.commit().await
    }

    /// Lets others onto an instance, from now on and for a time. What was shared of it before is not any more.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn share(&self, share: &ShareRow) -> Result<(), StoreError> {
        let ShareRow { instance, since_ms, until_ms } = share.clone();
        let mut change = self.change("share an instance").await?;
        change.run(sql::SHARE_PUT, |q| q.bind(instance).bind(since_ms).bind(until_ms)).await?;
        change.commit().await
    }

    /// # Errors
    /// When the store cannot be written; it stays shared then.
    pub async fn unshare(&self, instance: &str) -> Result<(), StoreError> {
        let mut change = self.change("stop sharing an instance").await?;
        change.run(sql::SHARE_REMOVE, |q| q.bind(instance.to_owned())).await?;
        change.commit().await
    }

    /// Forgets ended logins, shares and one-time links that have run out. Answers how many rows went.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn expire(&self, now_ms: i64) -> Result<u64, StoreError> {
        let mut gone = 0;
        for statement in [sql::REVOCATIONS_EXPIRE, sql::SHARES_EXPIRE, sql::LINKS_EXPIRE] {
            let done = sqlx::query(statement).bind(now_ms).execute(&self.writer).await;
            gone += done.map_err(failed("forget ended logins"))?.rows_affected();
        }
        Ok(gone)
    }

    pub(crate) async fn change(&self, what: &'static str) -> Result<Change, StoreError> {
        let transaction = self.writer.begin().await.map_err(failed(what))?;
        let mut change = Change { transaction, what };
        change.run(sql::VERSION_NEXT, |q| q).await?;
        Ok(change)
    }
}

pub(crate) type Query = sqlx::query::Query<'static, Any, sqlx::any::AnyArguments>;

/// One transaction; rolled back when dropped without [`Change::commit`].
pub(crate) struct Change {
    transaction: Transaction<'static, Any>,
    what: &'static str,
}

impl Change {
    /// Runs a statement and answers how many rows it touched.
    pub(crate) async fn run(
        &mut self,
        statement: &'static str,
        bind: impl FnOnce(Query) -> Query,
    ) -> Result<u64, StoreError> {
        let done = bind(sqlx::query(statement)).execute(&mut *self.transaction).await;
        Ok(done.map_err(failed(self.what))?.rows_affected())
    }

    pub(crate) async fn row(
        &mut self,
        statement: &'static str,
        bind: impl FnOnce(Query) -> Query,
    ) -> Result<Option<AnyRow>, StoreError> {
        bind(sqlx::query(statement)).fetch_optional(&mut *self.transaction).await.map_err(failed(self.what))
    }

    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        self.transaction.commit().await.map_err(failed(self.what))
    }
}

pub(crate) async fn insert_user(
    change: &mut Change,
    user: &NewUser,
    now_ms: i64,
) -> Result<bool, StoreError> {
    let name = user.name.as_str();
    let bind = |q: Query| q.bind(name.to_owned()).bind(user.password_hash.clone()).bind(now_ms);
    if change.run(sql::USER_ADD, bind).await? == 0 {
        return Ok(false);
    }
    insert_groups(change, name, &user.groups, now_ms).await?;
    for grant in &user.grants {
        insert_grant(change, grant, now_ms).await?;
    }
    Ok(true)
}

pub(crate) async fn set_password(
    change: &mut Change,
    name: &str,
    hash: &str,
    now_ms: i64,
) -> Result<bool, StoreError> {
    let bind = |q: Query| q.bind(name.to_owned()).bind(hash.to_owned()).bind(now_ms);
    Ok(change.run(sql::USER_PASSWORD, bind).await? > 0)
}

async fn insert_groups(
    change: &mut Change,
    name: &str,
    groups: &[String],
    now_ms: i64,
) -> Result<(), StoreError> {
    for group in groups {
        change.run(sql::GROUP_ADD, |q| q.bind(group.clone()).bind(now_ms)).await?;
        change.run(sql::MEMBERSHIP_ADD, |q| q.bind(name.to_owned()).bind(group.clone())).await?;
    }
    Ok(())
}

async fn insert_grant(change: &mut Change, grant: &GrantRow, now_ms: i64) -> Result<u64, StoreError> {
    let GrantRow { grantee, gives, scope } = grant.clone();
    change.run(sql::GRANT_ADD, |q| q.bind(grantee).bind(gives).bind(scope).bind(now_ms)).await
}

fn user(row: &AnyRow, what: &'static str) -> Result<UserRow, StoreError> {
    let name: String = column(row, "name", what)?;
    Ok(UserRow {
        name: name.parse().map_err(|reason| StoreError::Row { what, reason })?,
        has_password: column::<i64>(row, "has_password", what)? != 0,
        disabled: column::<i64>(row, "disabled", what)? != 0,
        created_at_ms: column(row, "created_at_ms", what)?,
        not_before_ms: column(row, "not_before_ms", what)?,
        last_login_ms: column(row, "last_login_ms", what)?,
        groups: Vec::new(),
    })
}

fn share(row: &AnyRow, what: &'static str) -> Result<ShareRow, StoreError> {
    Ok(ShareRow {
        instance: column(row, "instance", what)?,
        since_ms: column(row, "since_ms", what)?,
        until_ms: column(row, "until_ms", what)?,
    })
}

fn grant(row: &AnyRow, what: &'static str) -> Result<GrantRow, StoreError> {
    Ok(GrantRow {
        grantee: column(row, "grantee", what)?,
        gives: column(row, "gives", what)?,
        scope: column(row, "scope", what)?,
    })
}

pub(crate) fn failed(what: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |source| StoreError::Query { what, source }
}
