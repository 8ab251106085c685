//! The command line: what is typed, and where it goes.
//!
//! Data goes to stdout, reports and progress to stderr. Exit status 0: done, 1: failed, 2: wrong usage.

mod agent;
mod client;
mod config_check;
mod doctor;
mod exec;
mod key;
pub(crate) mod paint;
mod running;
mod user;

pub(crate) use config_check::count;

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::server_keys::listen_address;
use crate::data_dir;
use crate::import::ImportCommand;

/// Publishes web and data apps: point it at a folder, and people get a URL.
#[derive(Debug, Parser)]
#[command(name = "skep", version, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    everywhere: Everywhere,
    #[command(subcommand)]
    command: Command,
}

/// Options every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Everywhere {
    /// Where Skep keeps its state [default: /var/lib/skep as root, else $XDG_STATE_HOME/skep]
    #[arg(long, global = true, value_name = "DIR", env = "SKEP_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

impl Everywhere {
    pub(crate) fn data_dir(&self) -> anyhow::Result<PathBuf> {
        data_dir::resolve(self.data_dir.as_deref())
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the server
    Serve(ServeArgs),
    /// Lists the instances that run
    Ps(running::PsArgs),
    /// Prints what an app writes
    Logs(running::LogsArgs),
    /// Runs a program in an instance, a shell for example
    Exec(exec::ExecArgs),
    /// Stops instances, once their visitors have been seen off
    Stop(running::StopTarget),
    /// Gives new visitors new instances
    Restart(running::RestartArgs),
    /// Keeps the users of the local login
    User {
        #[command(subcommand)]
        command: user::UserCommand,
    },
    /// Keeps the keys cookies are sealed with
    Key {
        #[command(subcommand)]
        command: key::KeyCommand,
    },
    /// Looks at the server's config
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Checks what this machine offers and names what to mend
    Doctor(DoctorArgs),
    /// Replaces the running server by the program installed now; nobody notices
    Upgrade,
    /// Serves a server elsewhere on this node of a Docker Swarm
    Agent(agent::AgentArgs),
    /// Turns another server's config into Skep's
    Import {
        #[command(subcommand)]
        command: ImportCommand,
    },
    /// Prints the completion script of a shell
    Completion { shell: clap_complete::Shell },
    /// Holds one app process (started by the server, never by hand)
    #[command(hide = true, disable_help_flag = true)]
    Shim {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        args: Vec<std::ffi::OsString>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// An app's folder, served at /, or a folder of apps, served at /<folder>/ each
    pub(crate) paths: Vec<PathBuf>,
    /// The server's config file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A ShinyProxy application.yml to serve from, instead of a config of Skep's own
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub(crate) shinyproxy_config: Option<PathBuf>,
    /// Address to listen on, instead of the config's [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", value_parser = listen_address)]
    pub(crate) listen: Vec<SocketAddr>,
    /// Address for metrics and health, instead of the config's
    #[arg(long, value_name = "ADDR", value_parser = listen_address)]
    pub(crate) admin_listen: Option<SocketAddr>,
    /// Stop the apps too when the server stops, instead of leaving them running for the next one
    #[arg(long)]
    pub(crate) stop_apps_on_exit: bool,
    /// Serve without a login on an address other machines can reach
    #[arg(long)]
    pub(crate) insecure_no_auth: bool,
    /// Let people log in over plain HTTP from other machines, their passwords readable on the way
    #[arg(long)]
    pub(crate) insecure_http_login: bool,
    /// Where users, grants and the journal are kept, instead of the config's `server.database`: a SQLite file or
    /// postgres://… [default: skep.db in the data folder]
    #[arg(long, value_name = "LOCATION", env = "SKEP_STORE", hide_env_values = true)]
    pub(crate) store: Option<String>,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Reads a config and the folders it names, and reports every mistake
    Check(CheckArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The server's config file, an app's folder or a folder of apps [default: /etc/skep/skep.toml]
    pub(crate) path: Option<PathBuf>,
    /// Print the apps as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The server's config file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print the findings as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Does what the command line says.
pub(crate) fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match dispatch(cli) {
        Ok(code) => code,
        // Whoever reads us (`skep ps | head`) may stop reading; that is no failure of ours.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Serve(args) => crate::serve::run(&cli.everywhere, args),
        Command::Ps(args) => running::ps(&cli.everywhere, &args),
        Command::Exec(args) => exec::exec(&cli.everywhere, args),
        Command::Logs(args) => running::logs(&cli.everywhere, &args),
        Command::Stop(args) => running::stop(&cli.everywhere, &args),
        Command::Restart(args) => running::restart(&cli.everywhere, &args),
        Command::User { command } => user::run(&cli.everywhere, command),
        Command::Key { command } => key::run(&cli.everywhere, command),
        Command::Upgrade => running::upgrade(&cli.everywhere),
        Command::Agent(args) => agent::run(args),
        Command::Import { command } => crate::import::run(&command),
        Command::Config { command: ConfigCommand::Check(args) } => config_check::run(&args),
        Command::Doctor(args) => doctor::run(&cli.everywhere, &args),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "skep", &mut script);
            io::stdout().write_all(&script)?;
            Ok(ExitCode::SUCCESS)
        }
        // `main` sees to it before anything else is set up.
        Command::Shim { .. } => Ok(ExitCode::from(2)),
    }
}

/// One line of complaint on stderr.
pub(crate) fn complain(text: &str) {
    let red = paint::Paint::of(io::stderr().is_terminal());
    let _ = writeln!(io::stderr(), "{} {text}", red.bad("skep:"));
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
