//! After the hand-over to a new process: what still arrives on connections of ours is passed on to it, whole.
//!
//! The new process listens on a Unix socket and trusts what we say of the visitor there. To this process it looks like
//! one more instance: pooled connections, retries and tunnels are the same. Cookies, identity and launch headers pass
//! untouched; the new process judges them itself.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::Response;
use skep_launch::{Dial, Stream, Upstream};
use skep_model::{AppId, InstanceId, Prefix};
use tokio::net::UnixStream;

use crate::body::EdgeBody;
use crate::exchange::Exchange;
use crate::forward::Speaker;
use crate::problem::Problem;
use crate::request::{self, Conn, Stop, Visit};

/// The new process, dressed as an instance.
pub(crate) fn successor(socket: PathBuf) -> Option<Arc<Upstream>> {
    let app: AppId = "successor".parse().ok()?;
    Some(Arc::new(Upstream {
        instance: InstanceId::new(app.clone(), 0),
        app,
        name: None,
        prefix: Prefix::Keep,
        base_path: String::new(),
        dial: Arc::new(Relay(socket)),
    }))
}

struct Relay(PathBuf);

impl Dial for Relay {
    fn dial(&self) -> BoxFuture<'static, io::Result<Stream>> {
        let path = self.0.clone();
        Box::pin(async move { UnixStream::connect(path).await.map(Stream::Unix) })
    }

    fn describe(&self) -> String {
        format!("unix:{}", self.0.display())
    }
}

/// Passes a request on to the new process.
pub(crate) async fn pass_on(
    conn: &Rc<Conn>,
    mut visit: Visit,
    successor: &Upstream,
    exchange: &mut Option<Box<Exchange>>,
) -> Result<Response<EdgeBody>, Stop> {
    match request::carry(conn, &mut visit, successor, Speaker::Successor, exchange).await? {
        Ok(response) => Ok(response),
        Err(lost) => {
            let broken = lost.broken.to_string();
            let detail = format!("the server is being replaced and its successor gave no answer: {broken}");
            if let Some(exchange) = exchange {
                exchange.note_broken(&broken);
            }
            Err(Problem::new(503, "handing-over", detail)
                .retry_after(std::time::Duration::from_secs(1))
                .into())
        }
    }
}
