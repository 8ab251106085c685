//! Who may do what on which thing. Pure: grants and an app's own access rules in, a decision with its reason out.
//!
//! Invariants: nothing is allowed that neither a grant nor an app's access rules allow; a grant never takes anything
//! away; who is not logged in gets only what is open to everybody. Absent on purpose: deny rules, inheritance between
//! objects, caching (a decision costs a few comparisons).

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use skep_model::{Access, AppId, Principal};

use crate::permission::{Permission, Permissions, Role, clip};

/// Whom a grant is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Grantee {
    /// A login name, folded by [`fold`].
    User(String),
    Group(String),
    /// Everybody who is logged in.
    Everyone,
    /// Everybody, logged in or not.
    Anonymous,
}

/// What a grant gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Gives {
    Permission(Permission),
    Role(Role),
}

/// What a grant is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    Everything,
    App(AppId),
    Stack(String),
    /// `key=value`, or a key alone for any value.
    Label(String),
}

/// (user | group | everyone | anonymous) → permission or role, on everything, an app, a stack or a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Grant {
    pub to: Grantee,
    pub gives: Gives,
    pub on: Scope,
}

/// The thing somebody wants to act on.
#[derive(Debug, Clone, Copy)]
pub enum Object<'a> {
    /// No particular thing: the list of users, the settings.
    Everything,
    App {
        id: &'a AppId,
        access: &'a Access,
    },
    Service {
        stack: Option<&'a str>,
        labels: &'a [(String, String)],
    },
}

/// The answer, with its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision<'a> {
    Allowed(Why<'a>),
    Refused(WhyNot),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why<'a> {
    /// No login is configured; apps are for whoever reaches them.
    NoLogin,
    /// The app's `access.anyone`.
    AppForAnyone,
    /// The app names neither users nor groups: everybody who is logged in.
    AppForEveryUser,
    /// The app's `access.users`.
    AppForUser,
    /// The app's `access.groups`, with the group that matched.
    AppForGroup(&'a str),
    Grant(&'a Grant),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyNot {
    /// Nobody is logged in; with a login it may be allowed.
    LogIn,
    /// The user is known, and nothing allows it.
    NotGranted,
    /// No login is configured, so nobody can be an administrator here.
    NoLoginConfigured,
}

impl Decision<'_> {
    pub fn is_allowed(self) -> bool {
        matches!(self, Self::Allowed(_))
    }
}

/// Every grant there is, ready to be asked.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Whether a login is configured.
    login: bool,
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
    everyone: Vec<Grant>,
    anonymous: Vec<Grant>,
}

impl Policy {
    /// Without a login: every app is for everybody, nothing else for anybody.
    pub fn without_login() -> Self {
        Self::default()
    }

    pub fn new(grants: impl IntoIterator<Item = Grant>) -> Self {
        let mut policy = Self { login: true, ..Self::default() };
        for grant in grants {
            match &grant.to {
                Grantee::User(name) => policy.users.entry(fold(name)).or_default().push(grant),
                Grantee::Group(name) => policy.groups.entry(name.clone()).or_default().push(grant),
                Grantee::Everyone => policy.everyone.push(grant),
                Grantee::Anonymous => policy.anonymous.push(grant),
            }
        }
        policy
    }

    pub fn login(&self) -> bool {
        self.login
    }

    /// Whether `who` may do this to that.
    pub fn may<'a>(&'a self, who: &'a Principal, what: Permission, on: Object<'a>) -> Decision<'a> {
        if !self.login {
            return match (what, on) {
                (Permission::AppsUse, Object::App { .. }) => Decision::Allowed(Why::NoLogin),
                _ => Decision::Refused(WhyNot::NoLoginConfigured),
            };
        }
        if let (Permission::AppsUse, Object::App { access, .. }) = (what, on)
            && let Some(why) = by_access(who, access)
        {
            return Decision::Allowed(why);
        }
        let found = self.grants(who).find(|grant| grant.gives.holds(what) && grant.on.covers(on));
        match found {
            Some(grant) => Decision::Allowed(Why::Grant(grant)),
            None if matches!(who, Principal::User { .. }) => Decision::Refused(WhyNot::NotGranted),
            None => Decision::Refused(WhyNot::LogIn),
        }
    }

    /// What `who` may do to everything.
    pub fn permissions(&self, who: &Principal) -> Permissions {
        let everywhere = self.grants(who).filter(|grant| grant.on == Scope::Everything);
        everywhere.fold(Permissions::NONE, |set, grant| set.union(grant.gives.permissions()))
    }

    /// Every grant that concerns `who`. None when no login is configured.
    fn grants<'a>(&'a self, who: &'a Principal) -> impl Iterator<Item = &'a Grant> {
        let (name, groups) = match who {
            Principal::User { name, groups } => (Some(name), groups.as_slice()),
            _ => (None, [].as_slice()),
        };
        let own = name.and_then(|name| self.users.get(name.as_str())).into_iter().flatten();
        let of_groups = groups.iter().filter_map(|group| self.groups.get(group)).flatten();
        let everyone = name.map(|_| &self.everyone).into_iter().flatten();
        own.chain(of_groups).chain(everyone).chain(&self.anonymous)
    }
}

/// What the app itself says about who may open it.
fn by_access<'a>(who: &'a Principal, access: &'a Access) -> Option<Why<'a>> {
    if access.anyone {
        return Some(Why::AppForAnyone);
    }
    let Principal::User { name, groups } = who else { return None };
    if access.users.is_empty() && access.groups.is_empty() {
        return Some(Why::AppForEveryUser);
    }
    let same = |user: &String| user.chars().flat_map(char::to_lowercase).eq(name.as_str().chars());
    if access.users.iter().any(|user| user == name.as_str() || same(user)) {
        return Some(Why::AppForUser);
    }
    let group = groups.iter().find(|group| access.groups.contains(group))?;
    Some(Why::AppForGroup(group))
}

/// Login names that differ in case only are one and the same: this is the form they are compared in.
pub fn fold(name: &str) -> String {
    name.to_lowercase()
}

impl Gives {
    pub fn permissions(self) -> Permissions {
        match self {
            Self::Permission(permission) => [permission].into_iter().collect(),
            Self::Role(role) => role.permissions(),
        }
    }

    fn holds(self, what: Permission) -> bool {
        match self {
            Self::Permission(permission) => permission == what,
            Self::Role(role) => role.permissions().contains(what),
        }
    }
}

impl Scope {
    fn covers(&self, object: Object<'_>) -> bool {
        match (self, object) {
            (Self::Everything, _) => true,
            (Self::App(own), Object::App { id, .. }) => own == id,
            (Self::Stack(own), Object::Service { stack, .. }) => stack == Some(own),
            (Self::Label(own), Object::Service { labels, .. }) => labels.iter().any(|(key, value)| {
                own.strip_prefix(key.as_str()).is_some_and(|rest| {
                    rest.is_empty() || rest.strip_prefix('=').is_some_and(|wanted| wanted == value)
                })
            }),
            _ => false,
        }
    }
}

impl fmt::Display for Grantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user:{name}"),
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Everyone => f.write_str("everyone"),
            Self::Anonymous => f.write_str("anonymous"),
        }
    }
}

impl FromStr for Grantee {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "everyone" => Ok(Self::Everyone),
            None if text == "anonymous" => Ok(Self::Anonymous),
            Some(("user", name)) if !name.is_empty() => Ok(Self::User(fold(name))),
            Some(("group", name)) if !name.is_empty() => Ok(Self::Group(name.to_owned())),
            _ => Err(format!(
                "`{}` names nobody; write `user:NAME`, `group:NAME`, `everyone` or `anonymous`",
                clip(text)
            )),
        }
    }
}

impl fmt::Display for Gives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Permission(permission) => write!(f, "{permission}"),
            Self::Role(role) => write!(f, "role:{role}"),
        }
    }
}

impl FromStr for Gives {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("role:") {
            Some(role) => role.parse().map(Self::Role),
            None => text.parse().map(Self::Permission),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("everything"),
            Self::App(app) => write!(f, "app:{app}"),
            Self::Stack(stack) => write!(f, "stack:{stack}"),
            Self::Label(label) => write!(f, "label:{label}"),
        }
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "everything" => Ok(Self::Everything),
            Some(("app", id)) => id.parse().map(Self::App).map_err(|e: skep_model::BadId| e.to_string()),
            Some(("stack", name)) if !name.is_empty() => Ok(Self::Stack(name.to_owned())),
            Some(("label", label)) if !label.is_empty() && !label.starts_with('=') => {
                Ok(Self::Label(label.to_owned()))
            }
            _ => Err(format!(
                "`{}` names nothing; write `everything`, `app:ID`, `stack:NAME` or `label:KEY=VALUE`",
                clip(text)
            )),
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {} on {}", self.to, self.gives, self.on)
    }
}

impl fmt::Display for Decision<'_> {
    /// One sentence for the one who asks why.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed(Why::NoLogin) => {
                f.write_str("allowed: no login is configured, so apps are for everybody")
            }
            Self::Allowed(Why::AppForAnyone) => {
                f.write_str("allowed: the app is for anyone (`access.anyone`)")
            }
            Self::Allowed(Why::AppForEveryUser) => f.write_str(
                "allowed: the app names no users or groups, so it is for everybody who is logged in",
            ),
            Self::Allowed(Why::AppForUser) => {
                f.write_str("allowed: the app names this user (`access.users`)")
            }
            Self::Allowed(Why::AppForGroup(group)) => {
                write!(f, "allowed: the app names the group `{group}` (`access.groups`)")
            }
            Self::Allowed(Why::Grant(grant)) => write!(f, "allowed by the grant {grant}"),
            Self::Refused(WhyNot::LogIn) => f.write_str("refused: nobody is logged in"),
            Self::Refused(WhyNot::NotGranted) => f.write_str("refused: nothing allows this user to do that"),
            Self::Refused(WhyNot::NoLoginConfigured) => {
                f.write_str("refused: no login is configured; use the command line on the server")
            }
        }
    }
}

#[cfg(test)]
mod tests;
