//! `skep user`: users of the local login.
//!
//! Through the control socket when a server runs, so that every change counts at once; else straight in the store, so that
//! users can be made before the first start.

use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};
use skep_control::{Invitation, Newcomer, Roster, UserView};
use skep_model::Secret;
use skep_store::{Location, Store};

use super::running::print_table;
use super::{Everywhere, client};
use crate::config::ServerFile;
use crate::data_dir::DataDir;

/// No password is longer; more on stdin is a mistake.
const STDIN_AT_MOST: u64 = 64 << 10;
const USERS: &str = "/_skep/api/v1/users";

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Adds a user; without a password, prints a one-time link for choosing one
    Add(AddArgs),
    /// Sets a user's password, or prints a one-time link for choosing one
    Passwd(PasswdArgs),
    /// Removes a user, which ends their logins
    Rm(NameArgs),
    /// Lists the users
    List(ListArgs),
}

/// Where the users are, when no server runs.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// The server's config file, for its `server.database`; only looked at when no server runs
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// As `skep serve --store`; only looked at when no server runs
    #[arg(long, value_name = "LOCATION", env = "SKEP_STORE", hide_env_values = true)]
    store: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// The login name; upper and lower case are the same
    name: String,
    /// May do everything
    #[arg(long)]
    admin: bool,
    /// Groups, separated by commas
    #[arg(long, value_name = "GROUPS", value_delimiter = ',')]
    groups: Vec<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    place: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PasswdArgs {
    /// The login name
    name: String,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    place: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The login name
    name: String,
    #[command(flatten)]
    place: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: StoreArgs,
}

pub(crate) fn run(everywhere: &Everywhere, command: UserCommand) -> anyhow::Result<ExitCode> {
    let data = everywhere.data_dir()?;
    match command {
        UserCommand::Add(args) => add(&data, args)?,
        UserCommand::Passwd(args) => passwd(&data, args)?,
        UserCommand::Rm(args) => remove(&data, &args)?,
        UserCommand::List(args) => list(&data, &args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a server runs here.
fn is_served(data: &Path) -> bool {
    DataDir::connect(data).is_ok()
}

fn add(data: &Path, args: AddArgs) -> anyhow::Result<()> {
    let AddArgs { name, admin, groups, password_stdin, place } = args;
    let password = password_stdin.then(password_from_stdin).transpose()?;
    let (name, invitation) = if is_served(data) {
        let password = password.as_ref().map(Secret::expose);
        let body = json!({ "name": name, "admin": admin, "groups": groups, "password": password });
        let added: Value = client::send_json(data, Method::POST, USERS, &body)?;
        (added["name"].as_str().unwrap_or(&name).to_owned(), link(&added))
    } else {
        let newcomer = Newcomer { name, admin, groups, password };
        let (name, invitation) = offline(data, &place, async |roster| Ok(roster.add(newcomer).await?))?;
        (name.to_string(), invitation.map(Link::from))
    };
    writeln!(io::stderr(), "added {name}{}", if admin { ", an administrator" } else { "" })?;
    show(invitation.as_ref())
}

fn passwd(data: &Path, args: PasswdArgs) -> anyhow::Result<()> {
    let PasswdArgs { name, password_stdin, place } = args;
    let password = password_stdin.then(password_from_stdin).transpose()?;
    let set = password.is_some();
    let invitation = if is_served(data) {
        let body = json!({ "password": password.as_ref().map(Secret::expose) });
        let path = format!("{USERS}/{}/password", escaped(&name));
        link(&client::send_json(data, Method::PUT, &path, &body)?)
    } else {
        let invited = offline(data, &place, async |roster| Ok(roster.set_password(&name, password).await?))?;
        invited.map(Link::from)
    };
    if set {
        writeln!(io::stderr(), "the password is set; earlier logins of {name} have ended")?;
    }
    show(invitation.as_ref())
}

fn remove(data: &Path, args: &NameArgs) -> anyhow::Result<()> {
    let name = &args.name;
    if is_served(data) {
        let path = format!("{USERS}/{}", escaped(name));
        client::send_json::<Value>(data, Method::DELETE, &path, &json!({}))?;
    } else {
        offline(data, &args.place, async |roster| Ok(roster.remove(name).await?))?;
    }
    writeln!(io::stderr(), "removed {name}; their logins have ended")?;
    Ok(())
}

fn list(data: &Path, args: &ListArgs) -> anyhow::Result<()> {
    let users: Vec<UserView> = if is_served(data) {
        client::json(data, Method::GET, USERS)?
    } else {
        offline(data, &args.place, async |roster| Ok(roster.list().await?))?
    };
    let mut stdout = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut stdout, &users)?;
        writeln!(stdout)?;
        return Ok(());
    }
    let head = ["NAME", "ROLE", "GROUPS", "STATE", "LAST LOGIN"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for user in &users {
        let state = match (user.disabled, user.has_password) {
            (true, _) => "disabled",
            (false, false) => "invited",
            (false, true) => "active",
        };
        let last =
            user.last_login.as_deref().and_then(|text| text.get(..19)).map(|text| text.replace('T', " "));
        table.push(vec![
            user.name.to_string(),
            if user.admin { "administrator" } else { "-" }.to_owned(),
            if user.groups.is_empty() { "-".to_owned() } else { user.groups.join(",") },
            state.to_owned(),
            last.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    print_table(&mut stdout, &table)?;
    Ok(())
}

/// A one-time link to show.
struct Link {
    url: String,
    until: String,
}

impl From<Invitation> for Link {
    fn from(invitation: Invitation) -> Self {
        Self { url: invitation.url, until: invitation.expires_at }
    }
}

fn link(answer: &Value) -> Option<Link> {
    let invitation = &answer["invitation"];
    let text = |key: &str| invitation[key].as_str().map(str::to_owned);
    Some(Link { url: text("url")?, until: text("expires_at")? })
}

/// The link alone goes to stdout, so that it can be passed on by a script.
fn show(link: Option<&Link>) -> anyhow::Result<()> {
    let Some(Link { url, until }) = link else { return Ok(()) };
    let place = if url.starts_with('/') { " after the server's address" } else { "" };
    let until = until.get(..16).unwrap_or(until).replace('T', " ");
    writeln!(io::stderr(), "this link{place} works once, until {until} UTC:")?;
    writeln!(io::stdout(), "{url}")?;
    Ok(())
}

/// Works on the store itself; nobody else does while no server runs.
fn offline<T>(
    data: &Path,
    place: &StoreArgs,
    work: impl AsyncFnOnce(Roster) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let configured = || -> anyhow::Result<Option<String>> {
        let Some(file) = &place.config else { return Ok(None) };
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(ServerFile::parse(file, &text)?.server.database)
    };
    let location = match &place.store {
        Some(location) => Some(location.clone()),
        None => configured()?,
    };
    let location = match location {
        Some(location) => location.parse()?,
        None => Location::Sqlite(DataDir::open(data.to_owned())?.path().join("skep.db")),
    };
    client::on_runtime(async {
        let store = Store::open(&location).await?;
        let done = work(Roster::new(store.people(), "")).await;
        store.close().await;
        done
    })
}

/// The first line, without its end.
fn password_from_stdin() -> anyhow::Result<Secret> {
    let mut line = String::new();
    io::stdin().lock().take(STDIN_AT_MOST).read_line(&mut line).context("no password could be read")?;
    let password = line.strip_suffix('\n').unwrap_or(&line);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() {
        bail!("standard input holds no password");
    }
    Ok(Secret::new(password.to_owned()))
}

/// A name as it may stand in a path.
fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    let escape = |byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    name.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn names_become_one_part_of_a_path() {
        assert_eq!(escaped("ada.l-1"), "ada.l-1");
        assert_eq!(escaped("a/b é?"), "a%2Fb%20%C3%A9%3F");
    }
}
