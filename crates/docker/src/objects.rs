//! Everything that is listed, looked at, made, changed and removed in the same way: networks and volumes, and a Swarm's
//! services, tasks, nodes, secrets and configs.

use serde_json::Value;

use crate::call::{Call, encode};
use crate::document::list;
use crate::images::LOGIN_HEADER;
use crate::{Credentials, Document, Engine, Error, Filters, Reference};

/// How often an update that others got in the way of is tried.
const ATTEMPTS: usize = 5;

/// A kind of object. Not every kind can be made or changed; the engine says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Network,
    Volume,
    Service,
    Task,
    Node,
    Secret,
    Config,
}

impl Kind {
    fn path(self) -> &'static str {
        match self {
            Self::Network => "/networks",
            Self::Volume => "/volumes",
            Self::Service => "/services",
            Self::Task => "/tasks",
            Self::Node => "/nodes",
            Self::Secret => "/secrets",
            Self::Config => "/configs",
        }
    }

    fn one(self, id: &str) -> String {
        format!("{}/{}", self.path(), encode(id))
    }
}

impl Engine {
    pub async fn list(&self, kind: Kind, filters: Filters<'_>) -> Result<Vec<Document>, Error> {
        let answer = self.send(Call::get(kind.path()).filters(filters)).await?.json().await?;
        Ok(match answer {
            // Volumes come wrapped.
            Value::Object(mut map) => list(map.remove("Volumes").unwrap_or_default()),
            other => list(other),
        })
    }

    /// By id or name; `None` when there is none.
    pub async fn inspect(&self, kind: Kind, id: &str) -> Result<Option<Document>, Error> {
        match self.send(Call::get(kind.one(id))).await {
            Ok(answer) => Ok(Some(Document(answer.json().await?))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes one from the engine's own JSON. Answers its id (a volume's name).
    pub async fn create(&self, kind: Kind, spec: &Value) -> Result<String, Error> {
        let call = Call::post(format!("{}/create", kind.path())).json(spec);
        let made = Document(self.send(call).await?.json().await?);
        let name = if kind == Kind::Volume { made.text("/Name") } else { None };
        Ok(name.unwrap_or_else(|| made.id()).to_owned())
    }

    /// Makes a Swarm service, whose nodes fetch its image with this login. Answers its id.
    pub async fn create_service(
        &self,
        spec: &Value,
        image: &Reference,
        login: Option<&Credentials>,
    ) -> Result<String, Error> {
        let mut call = Call::post("/services/create").json(spec);
        if let Some(login) = login {
            call = call.header(LOGIN_HEADER, login.header(image));
        }
        Ok(Document(self.send(call).await?.json().await?).id().to_owned())
    }

    /// Answers whether there was anything to remove.
    pub async fn remove(&self, kind: Kind, id: &str) -> Result<bool, Error> {
        match self.send(Call::delete(kind.one(id))).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Changes the spec of a service, node, secret or config: read, `change`, write back with the version it was read at;
    /// again from the start when somebody else was faster. Whatever `change` does not touch stays as it is, fields this
    /// crate has never heard of included.
    ///
    /// # Errors
    /// When others keep being faster, or the engine refuses.
    pub async fn update(
        &self,
        kind: Kind,
        id: &str,
        mut change: impl FnMut(&mut Value),
    ) -> Result<(), Error> {
        let mut attempt = 1;
        loop {
            let object = Document(self.send(Call::get(kind.one(id))).await?.json().await?);
            let missing = |what: &str| Error::Garbled {
                call: format!("GET {}", kind.one(id)),
                reason: format!("it holds no `{what}`"),
            };
            let version = object
                .at("/Version/Index")
                .and_then(Value::as_u64)
                .ok_or_else(|| missing("Version.Index"))?;
            let mut spec = object.at("/Spec").cloned().ok_or_else(|| missing("Spec"))?;
            change(&mut spec);
            let call = Call::post(format!("{}/update", kind.one(id)))
                .query("version", &version.to_string())
                .json(&spec);
            match self.send(call).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_stale() && attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }
}
