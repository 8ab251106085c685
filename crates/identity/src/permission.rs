//! Permissions and roles: names for what may be done. Data, not code: they are stored and sent by name.

use std::fmt;
use std::str::FromStr;

/// One thing somebody may be allowed to do. The names are part of the public contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Permission {
    UsersRead,
    UsersWrite,
    GroupsRead,
    GroupsWrite,
    AppsUse,
    AppsManage,
    ServicesRead,
    ServicesWrite,
    ServicesLogs,
    ServicesExec,
    NodesRead,
    NodesWrite,
    EventsRead,
    SecretsRead,
    SecretsWrite,
    MetricsRead,
    AuditRead,
    SettingsRead,
    SettingsWrite,
}

impl Permission {
    pub const ALL: [Self; 19] = [
        Self::UsersRead,
        Self::UsersWrite,
        Self::GroupsRead,
        Self::GroupsWrite,
        Self::AppsUse,
        Self::AppsManage,
        Self::ServicesRead,
        Self::ServicesWrite,
        Self::ServicesLogs,
        Self::ServicesExec,
        Self::NodesRead,
        Self::NodesWrite,
        Self::EventsRead,
        Self::SecretsRead,
        Self::SecretsWrite,
        Self::MetricsRead,
        Self::AuditRead,
        Self::SettingsRead,
        Self::SettingsWrite,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::UsersRead => "users.read",
            Self::UsersWrite => "users.write",
            Self::GroupsRead => "groups.read",
            Self::GroupsWrite => "groups.write",
            Self::AppsUse => "apps.use",
            Self::AppsManage => "apps.manage",
            Self::ServicesRead => "services.read",
            Self::ServicesWrite => "services.write",
            Self::ServicesLogs => "services.logs",
            Self::ServicesExec => "services.exec",
            Self::NodesRead => "nodes.read",
            Self::NodesWrite => "nodes.write",
            Self::EventsRead => "events.read",
            Self::SecretsRead => "secrets.read",
            Self::SecretsWrite => "secrets.write",
            Self::MetricsRead => "metrics.read",
            Self::AuditRead => "audit.read",
            Self::SettingsRead => "settings.read",
            Self::SettingsWrite => "settings.write",
        }
    }

    fn bit(self) -> u32 {
        1 << (self as u32)
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Permission {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|permission| permission.name() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.into_iter().map(Self::name).collect();
            format!("`{}` is no permission; there are {}", clip(text), names.join(", "))
        })
    }
}

/// A set of permissions.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Permissions(u32);

impl Permissions {
    pub const NONE: Self = Self(0);

    pub fn all() -> Self {
        Permission::ALL.into_iter().collect()
    }

    pub fn contains(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }

    pub fn insert(&mut self, permission: Permission) {
        self.0 |= permission.bit();
    }

    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.into_iter().filter(move |permission| self.contains(*permission))
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<T: IntoIterator<Item = Permission>>(permissions: T) -> Self {
        let mut set = Self::NONE;
        for permission in permissions {
            set.insert(permission);
        }
        set
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Permission::name)).finish()
    }
}

/// A named set of permissions that can be granted at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Everything there is.
    Administrator,
    /// Runs apps and services; touches neither users nor secrets nor settings.
    Operator,
    /// Sees what runs; changes nothing.
    Viewer,
    /// Opens apps.
    User,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Administrator, Self::Operator, Self::Viewer, Self::User];

    pub fn name(self) -> &'static str {
        match self {
            Self::Administrator => "administrator",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
            Self::User => "user",
        }
    }

    pub fn permissions(self) -> Permissions {
        use Permission as P;
        match self {
            Self::Administrator => Permissions::all(),
            Self::Operator => [
                P::AppsUse,
                P::AppsManage,
                P::ServicesRead,
                P::ServicesWrite,
                P::ServicesLogs,
                P::NodesRead,
                P::EventsRead,
                P::MetricsRead,
            ]
            .into_iter()
            .collect(),
            Self::Viewer => [P::AppsUse, P::ServicesRead, P::NodesRead, P::EventsRead, P::MetricsRead]
                .into_iter()
                .collect(),
            Self::User => [P::AppsUse].into_iter().collect(),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|role| role.name() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.into_iter().map(Self::name).collect();
            format!("`{}` is no role; there are {}", clip(text), names.join(", "))
        })
    }
}

/// Enough of a text somebody sent to recognise it in a message.
pub(crate) fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for permission in Permission::ALL {
            assert_eq!(permission.name().parse(), Ok(permission));
        }
        for role in Role::ALL {
            assert_eq!(role.name().parse(), Ok(role));
        }
        assert!("users.*".parse::<Permission>().unwrap_err().contains("users.read"));
        assert!("root".parse::<Role>().unwrap_err().contains("administrator"));
    }

    #[test]
    fn sets_hold_what_was_put_in() {
        assert_eq!(Permissions::all().iter().count(), Permission::ALL.len());
        assert_eq!(Permissions::NONE.iter().count(), 0);
        for permission in Permission::ALL {
            let one: Permissions = [permission].into_iter().collect();
            assert!(Permission::ALL.into_iter().all(|other| one.contains(other) == (other == permission)));
        }
        assert_eq!(
            format!("{:?}", Role::User.permissions().union([Permission::UsersRead].into_iter().collect())),
            "{\"users.read\", \"apps.use\"}"
        );
    }

    /// What each role may do, spelled out: a change of a role must be made here, too.
    #[test]
    fn roles_hold_what_the_documentation_says() {
        let names =
            |role: Role| role.permissions().iter().map(Permission::name).collect::<Vec<_>>().join(" ");
        assert_eq!(names(Role::User), "apps.use");
        assert_eq!(names(Role::Viewer), "apps.use services.read nodes.read events.read metrics.read");
        assert_eq!(
            names(Role::Operator),
            "apps.use apps.manage services.read services.write services.logs nodes.read events.read metrics.read"
        );
        assert_eq!(Role::Administrator.permissions(), Permissions::all());
    }
}
