//! The engine itself, and the Swarm it may be part of.

use serde_json::Value;

use crate::call::Call;
use crate::{Document, Engine, Error};

impl Engine {
    /// `Version`, `ApiVersion`, `Os`, …
    pub async fn version(&self) -> Result<Document, Error> {
        Ok(Document(self.send(Call::get("/version")).await?.json().await?))
    }

    /// `ID`, `Name`, `Driver`, `NCPU`, `MemTotal`, `Swarm`, …
    pub async fn info(&self) -> Result<Document, Error> {
        Ok(Document(self.send(Call::get("/info")).await?.json().await?))
    }

    /// What images, containers, volumes and build caches take up.
    pub async fn disk_usage(&self) -> Result<Document, Error> {
        let call = Call::get("/system/df").within(std::time::Duration::from_secs(120));
        Ok(Document(self.send(call).await?.json().await?))
    }

    /// Makes this engine the first manager of a new Swarm. Answers the node's id.
    pub async fn init_swarm(&self, spec: &Value) -> Result<String, Error> {
        let call = Call::post("/swarm/init").json(spec).within(std::time::Duration::from_secs(60));
        let answer = self.send(call).await?.json().await?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// The Swarm this engine manages; `None` when it manages none.
    pub async fn inspect_swarm(&self) -> Result<Option<Document>, Error> {
        match self.send(Call::get("/swarm")).await {
            Ok(answer) => Ok(Some(Document(answer.json().await?))),
            Err(Error::Refused { status: 503, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn leave_swarm(&self, force: bool) -> Result<(), Error> {
        let call = Call::post("/swarm/leave").query("force", if force { "1" } else { "0" });
        self.send(call.within(std::time::Duration::from_secs(60))).await.map(drop)
    }
}
