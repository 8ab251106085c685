//! What has no counterpart, and why: keys ShinyProxy knows, however they are written.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Skep needs no such thing.
    Meaningless,
    /// Skep has no such thing.
    NotYet,
    /// Nobody knows such a key; ShinyProxy passes it over.
    Unknown,
}

use Fate::{Meaningless, NotYet, Unknown};

const NO_FRAME: &str = "apps have addresses of their own here, without a frame around them";
const FITTED: &str = "an image is fitted into its place";
const OWN_TEMPLATES: &str = "only templates of one's own read it";
const OWN_MARK: &str = "browsers show Skep's mark on their tabs";
const NO_SUPPORT: &str = "Skep names one address for all apps, `portal.support`";
const LOCAL_USERS: &str = "Skep logs in users of its own so far";
const DOCKER_ONLY: &str = "Skep runs containers on a Docker Engine or a Docker Swarm";
const NO_COUNTERPART: &str = "Skep has no counterpart";
const UNKNOWN: &str = "ShinyProxy has no such setting at this place, as far as is known";

/// Of a key outside of specs, by its path in canonical writing.
pub(super) fn of_setting(path: &str) -> (Fate, &'static str) {
    let first = path.split('.').next().unwrap_or_default();
    match first {
        "proxy" => of_proxy(path.strip_prefix("proxy.").unwrap_or_default()),
        "server" => of_server(path),
        "logging" => (Meaningless, "Skep logs to standard error; `server.access_log` is for requests"),
        "management" | "spring" | "springdoc" | "info" => (Meaningless, "Skep is no Spring application"),
        _ => (Unknown, UNKNOWN),
    }
}

fn of_server(path: &str) -> (Fate, &'static str) {
    match path {
        "server.useforwardheaders" | "server.forwardheadersstrategy" => {
            (NotYet, "name what stands before Skep in `server.trusted_proxies`, by its address")
        }
        "server.servlet.contextpath" => (NotYet, "Skep is served at the root of its host"),
        "server.securecookies" => (Meaningless, "cookies are always `Secure` over HTTPS"),
        "server.frameoptions" => (Meaningless, "apps decide by their own headers who may frame them"),
        _ if path.starts_with("server.ssl") => (NotYet, "name PEM files in `server.tls.cert` and `.key`"),
        _ if path.starts_with("server.servlet.session") => {
            (Meaningless, "how long a login lasts is said in `[auth.session]`")
        }
        _ => (Meaningless, "Skep is no Spring application"),
    }
}

fn of_proxy(path: &str) -> (Fate, &'static str) {
    let first = path.split('.').next().unwrap_or_default();
    match first {
        "heartbeatrate" | "heartbeatenabled" => (Meaningless, "Skep sees by itself whether a page is open"),
        "landingpage" => (NotYet, "whoever logs in comes to the portal, or where they wanted to go"),
        "hidenavbar"
        | "defaultwebsocketreconnectionmode"
        | "defaultshinyforcefullreload"
        | "defaultalwaysswitchinstance"
        | "defaultalwaysshowswitchinstance"
        | "defaulttrackappurl"
        | "bodyclasses" => (Meaningless, NO_FRAME),
        "myappsmode" => (Meaningless, "what runs for oneself is listed at `/_skep/apps`, and ended there"),
        "allowtransferapp" => (NotYet, NO_COUNTERPART),
        "recoverrunningproxies" | "recoverrunningproxiesfromdifferentconfig" | "stopproxiesonshutdown" => {
            (Meaningless, "apps outlive Skep and are found again; `--stop-apps-on-exit` ends them with it")
        }
        "storemode" | "realmid" => (Meaningless, "Skep needs no store for sessions"),
        "seatwaittime" | "containerwaittimeout" => {
            (Meaningless, "a visitor waits for a seat as long as the app may take to start")
        }
        "title" | "logourl" | "templatepath" | "defaultapplogourl" => (NotYet, "its value is no text"),
        "defaultapplogowidth" | "defaultapplogoheight" | "defaultapplogostyle" | "defaultapplogoclasses" => {
            (Meaningless, FITTED)
        }
        "faviconpath" => (NotYet, OWN_MARK),
        "notificationmessage" => (NotYet, "its value is no text"),
        "support" => (Meaningless, "whoever writes to `portal.support` chooses the subject"),
        "defaultcacheheadersmode" => (Meaningless, "an app's own cache headers count"),
        "containerlogpath"
        | "containerlogs3accesskey"
        | "containerlogs3accesssecret"
        | "containerlogs3endpoint"
        | "containerlogs3sse"
        | "logasjson" => (Meaningless, "`skep logs` shows what apps write; the engine keeps 10 MB of each"),
        "usagestatsurl"
        | "usagestatsusername"
        | "usagestatspassword"
        | "usagestats"
        | "usagestatshikari"
        | "usagestatstablename"
        | "usagestatsmicrometerprefix"
        | "usagestatsattributes"
        | "monitoring" => (NotYet, "metrics are at `server.admin_listen`, for Prometheus"),
        "ldap" | "openid" | "saml" | "webservice" | "customheader" | "kerberos" | "social" | "keycloak"
        | "msgraph" | "oauth2" => (NotYet, LOCAL_USERS),
        "kubernetes" | "ecs" => (NotYet, DOCKER_ONLY),
        "samesitecookie" => (Meaningless, "Skep's cookies are `Lax`"),
        "apisecurity" => (Meaningless, "Skep's own rules hold for its API"),
        "usernamecasesensitive" => (Meaningless, "upper and lower case of a user's name are the same"),
        "operator" | "version" => (Meaningless, "there is no operator"),
        "docker" => of_docker(path.strip_prefix("docker.").unwrap_or_default()),
        _ => (Unknown, UNKNOWN),
    }
}

fn of_docker(key: &str) -> (Fate, &'static str) {
    match key {
        "internalnetworking" | "portrangestart" | "portrangemax" | "containerprotocol" | "targeturl"
        | "targetbindip" => (Meaningless, "Skep dials containers at their own addresses; see `docker.dial`"),
        "privileged" => (NotYet, "give back what is needed with `container.capabilities`"),
        "servicewaittime" => (Meaningless, "a start has `start_timeout`, and says what it waits for"),
        "imagepullsecret" | "imagepullsecrets" | "lokiurl" => (NotYet, NO_COUNTERPART),
        _ => (Unknown, UNKNOWN),
    }
}

/// Of a key of a spec, in canonical writing.
pub(super) fn of_spec(key: &str) -> (Fate, &'static str) {
    match key {
        "hidenavbaronmainpagelink"
        | "websocketreconnectionmode"
        | "shinyforcefullreload"
        | "alwaysswitchinstance"
        | "alwaysshowswitchinstance"
        | "trackappurl" => (Meaningless, NO_FRAME),
        "scaledowndelay" => (Meaningless, "spare instances are stopped after `idle_timeout`"),
        "containermemoryrequest" | "containercpurequest" => {
            (Meaningless, "one engine reserves nothing; limits count")
        }
        "templateproperties" | "customappdetails" => (Meaningless, OWN_TEMPLATES),
        "logowidth" | "logoheight" | "logostyle" | "logoclasses" => (Meaningless, FITTED),
        "templategroup" | "logourl" => (NotYet, "its value is no text"),
        "favicon" | "faviconpath" => (NotYet, OWN_MARK),
        "supportmailtoaddress" | "supportmailsubject" => (NotYet, NO_SUPPORT),
        "dockerregistrydomain" | "dockerregistryusername" | "dockerregistrypassword" => {
            (NotYet, "run `docker login` as Skep's user instead")
        }
        "dockerswarmsecrets" => {
            (NotYet, "name files under `secrets`; Skep makes secrets of the Swarm of them")
        }
        "containerenvfile" => (NotYet, "write its lines under `env`, what is secret under `secrets`"),
        "targetpath"
        | "httpheaders"
        | "cacheheadersmode"
        | "additionalportmappings"
        | "containerdns"
        | "dockerruntime"
        | "dockeripc"
        | "dockergroupadd"
        | "resourcename" => (NotYet, NO_COUNTERPART),
        _ if key.starts_with("kubernetes") || key.starts_with("ecs") => (NotYet, DOCKER_ONLY),
        _ => (Unknown, UNKNOWN),
    }
}
