//! `landfall serve`: the management page.
//!
//! The server renders everything, as HTML and SVG. The browser gets one style sheet and one small
//! script, which replaces parts of a page by newer ones. Slow work runs off the threads that answer
//! requests.
//!
//! ```text
//! A request            listen           sockets, TLS, limits on connections
//!                      access           who may do what: the table of routes and rights
//!                      token            the secret that operators log in with
//!                      sessions         the browsers that are logged in
//!                      routes           the address of every page and action
//!                      page_error       every refusal that a page can show
//!
//! What is shown        guests           the guests of the page, and their probes
//!                      discover         QEMUs that run on this host
//!                      settings_form    the settings typed on a page
//!                      what_if          what settings imply, before a migration starts
//!                      migrations       migrations in the folder of recordings; starting one
//!                      expected_course  what was expected of a migration when it started
//!                      timeline         a migration, read from its recording
//!                      timelines        those that are looked at, each read once
//!                      events           the same while it runs, as server-sent events
//!                      steering         changes and cancels a running migration
//!
//! How it is drawn      pages/           HTML, one file per page
//!                      charts/          SVG
//!                      assets/          style sheet, script, icon
//! ```

mod access;
mod calendar;
mod charts;
mod discover;
mod events;
mod expected_course;
mod guests;
mod listen;
mod migrations;
mod page_error;
mod pages;
mod routes;
mod serve_options;
mod sessions;
mod settings_form;
mod steering;
mod timeline;
mod timelines;
mod token;
mod what_if;

use std::env;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use landfall_qemu::stdio::print_line;
use tokio::sync::Semaphore;

pub use serve_options::ServeOptions;

use crate::command_error::CommandError;
use crate::signals;
use access::AccessControl;
use guests::GuestList;
use listen::{ListenError, PageListener};
use migrations::{MigrationFolder, OpenFolderError};
use sessions::LoginSessions;
use timelines::MigrationTimelines;
use token::{LoginToken, TokenError};

/// What every request handler works on.
pub struct WebState {
    access: Arc<AccessControl>,
    guests: GuestList,
    migrations: MigrationFolder,
    timelines: MigrationTimelines,
    /// Simulations at a time: one, because each takes a processor that guests may need.
    simulations: Arc<Semaphore>,
    /// Answers by the planner at a time: with `--public-read` anyone can ask for them.
    plans: Arc<Semaphore>,
}

/// Two, so that one slow question does not hold up the next, and most processors stay with the guests.
const PLANS_AT_A_TIME: usize = 2;

/// Why the page cannot be served.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Folder(#[from] OpenFolderError),
    #[error(
        "landfall cannot find its own program file, which it needs to start migrations: {0}; start \
         landfall again from a file that exists"
    )]
    OwnProgram(io::Error),
}

/// Serves the page until a signal ends it.
///
/// # Errors
/// [`CommandError`]: the page cannot be served.
pub async fn run(options: ServeOptions) -> Result<(), CommandError> {
    let (listener, state) = open(&options).await.map_err(CommandError::usage)?;
    crate::commands::release_at_start().await;
    print_greeting(&options, &listener, &state);
    let mut stops = signals::listen();
    tokio::select! {
        () = listener.serve(routes::router(Arc::new(state))) => {}
        _ = stops.recv() => {}
    }
    options.listen.remove_socket();
    Ok(())
}

async fn open(options: &ServeOptions) -> Result<(PageListener, WebState), ServeError> {
    let certificate = options.tls_cert.as_deref().zip(options.tls_key.as_deref());
    let listener = PageListener::open(&options.listen, certificate).await?;
    let token = match &options.token_file {
        Some(path) => LoginToken::read_or_create(path)?,
        None => LoginToken::generate()?,
    };
    let access = AccessControl {
        token,
        sessions: LoginSessions::default(),
        host_names: options.name.clone(),
        encrypted: listener.is_encrypted(),
        public_read: options.public_read,
    };
    let program = env::current_exe().map_err(ServeError::OwnProgram)?;
    let folder = options.recordings.clone().unwrap_or_else(default_recordings_folder);
    let state = WebState {
        access: Arc::new(access),
        guests: GuestList::new(options.guest.clone()),
        migrations: MigrationFolder::open(&folder, program)?,
        timelines: MigrationTimelines::default(),
        simulations: Arc::new(Semaphore::new(1)),
        plans: Arc::new(Semaphore::new(PLANS_AT_A_TIME)),
    };
    Ok((listener, state))
}

/// Returns the folder of recordings that is used without `--recordings`.
fn default_recordings_folder() -> PathBuf {
    let home = env::var_os("HOME").filter(|_| !rustix::process::geteuid().is_root());
    let state = env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|_| home.is_some());
    match (state, home) {
        (Some(state), _) => state.join("landfall"),
        (None, Some(home)) => PathBuf::from(home).join(".local/state/landfall"),
        (None, None) => PathBuf::from("/var/lib/landfall"),
    }
}

/// Prints the address to open, with the token in it.
fn print_greeting(options: &ServeOptions, listener: &PageListener, state: &WebState) {
    let token = state.access.token.as_str();
    match listener.local_address() {
        Some(address) => {
            let scheme = if listener.is_encrypted() { "https" } else { "http" };
            let host = options.name.first().filter(|_| address.ip().is_unspecified());
            let host =
                host.map_or(address.to_string(), |name| format!("{name}:{}", address.port()));
            print_line(&format!("Open {scheme}://{host}/login#{token}"));
        }
        None => print_line(&format!("Listening on {}; the token is {token}", options.listen)),
    }
    if state.access.public_read {
        print_line(
            "--public-read: anyone who can connect sees guests and migrations without the token; \
             every change still needs it",
        );
    }
}
