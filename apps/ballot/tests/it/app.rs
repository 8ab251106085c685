//! A running `ballot all` and a browser to use it with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ballot::client::{Answer, Client};
use ballot::front::FrontOptions;
use ballot::front::limits::Rate;
use ballot::http::HttpLimits;
use ballot::keys::Keys;
use ballot::polls::{self, Poll};
use ballot::results::ResultsOptions;
use ballot::serve::{self, Common, Running};
use bytes::Bytes;
use http::{Method, StatusCode};

pub(crate) struct App {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) running: Running,
    pub(crate) keys: Arc<Keys>,
}

pub(crate) fn options() -> FrontOptions {
    let free = Rate { per_second: 0.0, burst: 1.0 };
    FrontOptions { prefix_rate: free, voter_rate: free, segment_bytes: 1 << 20, ..FrontOptions::new("test") }
}

pub(crate) fn limits() -> HttpLimits {
    HttpLimits { head: Duration::from_secs(15), body: Duration::from_secs(15), ..HttpLimits::default() }
}

/// Two options, open now.
pub(crate) fn poll(id: &str, more: &str) -> Poll {
    let text =
        format!("[[polls]]\nid = \"{id}\"\nquestion = \"Which?\"\noptions = [\"cats\", \"dogs\"]\n{more}\n");
    polls::parse("test", &text).expect("a poll").remove(0)
}

impl App {
    pub(crate) async fn start() -> Self {
        Self::with(vec![polls::demo()], options()).await
    }

    pub(crate) async fn with(polls: Vec<Poll>, options: FrontOptions) -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let (running, keys) = Self::serve(dir.path(), polls, options).await;
        Self { dir, running, keys }
    }

    async fn serve(dir: &std::path::Path, polls: Vec<Poll>, options: FrontOptions) -> (Running, Arc<Keys>) {
        let keys = Arc::new(Keys::load_or_create(&dir.join("key")).expect("keys"));
        let common = Common {
            listen: "127.0.0.1:0".parse().expect("address"),
            data_dir: dir.to_owned(),
            keys: Arc::clone(&keys),
            limits: limits(),
        };
        let store = format!("sqlite:{}", dir.join("ballot.db").display());
        let results = ResultsOptions { every: Duration::from_millis(50), ..ResultsOptions::default() };
        let running = serve::all(common, &store, polls, options, results).await.expect("serves");
        let app = (running, keys);
        let client = Client::new(app.0.address.to_string(), 1 << 20);
        until("the front is ready", async || get(&client, "/health").await.status == StatusCode::OK).await;
        app
    }

    /// Stops, and starts again on the same folder.
    pub(crate) async fn again(self, polls: Vec<Poll>) -> Self {
        self.running.stop().await;
        let (running, keys) = Self::serve(self.dir.path(), polls, options()).await;
        Self { dir: self.dir, running, keys }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.running.address.to_string(), 8 << 20)
    }

    /// What is shown of a poll: of one that has just been defined, a moment later.
    pub(crate) async fn results(&self, poll: &str) -> serde_json::Value {
        let mut shown = serde_json::Value::Null;
        until(&format!("results of {poll} are shown"), async || {
            let answer = get(&self.client(), &format!("/api/v1/polls/{poll}/results")).await;
            if answer.status == StatusCode::OK {
                shown = serde_json::from_slice(&answer.body).expect("json");
            }
            !shown.is_null()
        })
        .await;
        shown
    }

    /// Waits until the count is `cats` and `dogs` and nothing is on its way.
    pub(crate) async fn counts(&self, poll: &str, cats: u64, dogs: u64) {
        let wanted = serde_json::json!({ "cats": cats, "dogs": dogs });
        until(&format!("{wanted}"), async || {
            let results = self.results(poll).await;
            results["counts"] == wanted && results["pending"] == 0 && results["voters"] == cats + dogs
        })
        .await;
    }

    pub(crate) async fn admin(&self, method: Method, path: &str, body: &str) -> Answer {
        let token = format!("Bearer {}", self.keys.admin_token());
        let headers = [("authorization", token.as_str()), ("content-type", "application/json")];
        let path = format!("/api/v1/admin/{path}");
        self.client().send(method, &path, &headers, Bytes::from(body.to_owned())).await.expect("an answer")
    }

    /// Closes the poll and waits for the published result.
    pub(crate) async fn close(&self, poll: &str) {
        let answer = self.admin(Method::POST, &format!("polls/{poll}/close"), "").await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        until("the count is final", async || self.results(poll).await["final"] == true).await;
    }
}

pub(crate) async fn get(client: &Client, path: &str) -> Answer {
    client.send(Method::GET, path, &[], Bytes::new()).await.expect("an answer")
}

/// Polls a condition with a deadline.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A browser with one cookie.
pub(crate) struct Browser {
    pub(crate) client: Client,
    pub(crate) cookie: String,
}

impl Browser {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, cookie: String::new() }
    }

    pub(crate) async fn open(client: Client, poll: &str) -> Self {
        let mut browser = Self::new(client);
        let answer = browser.get(&format!("/polls/{poll}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        assert!(!browser.cookie.is_empty());
        browser
    }

    pub(crate) fn keep(&mut self, answer: &Answer) {
        if let Some(value) = answer.headers.get("set-cookie") {
            self.cookie = value.to_str().expect("text").split(';').next().expect("a pair").to_owned();
        }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        let cookie = self.cookie.clone();
        let headers = [("accept", "text/html"), ("cookie", cookie.as_str())];
        let answer = self.client.send(Method::GET, path, &headers, Bytes::new()).await.expect("an answer");
        self.keep(&answer);
        answer
    }

    pub(crate) async fn post(
        &mut self,
        path: &str,
        kind: &str,
        body: &str,
        more: &[(&'static str, &str)],
    ) -> Answer {
        let cookie = self.cookie.clone();
        let mut headers = vec![("content-type", kind), ("cookie", cookie.as_str())];
        headers.extend_from_slice(more);
        let body = Bytes::from(body.to_owned());
        let answer = self.client.send(Method::POST, path, &headers, body).await.expect("an answer");
        self.keep(&answer);
        answer
    }

    pub(crate) async fn vote(&mut self, poll: &str, option: &str) -> Answer {
        let body = format!("{{\"option\":\"{option}\"}}");
        self.post(&format!("/api/v1/polls/{poll}/ballots"), "application/json", &body, &[]).await
    }

    /// Votes, and answers the receipt.
    pub(crate) async fn voted(&mut self, poll: &str, option: &str) -> String {
        let answer = self.vote(poll, option).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
        let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("json");
        body["receipt"].as_str().expect("a receipt").to_owned()
    }
}

pub(crate) fn code(answer: &Answer) -> (u16, String) {
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    (answer.status.as_u16(), body["code"].as_str().unwrap_or_default().to_owned())
}
