//! Every refusal that a page can show, each with its HTTP status.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use landfall_migration::recording::follow::FollowError;
use tokio::task::JoinError;

use super::guests::AddGuestError;
use super::migrations::{DestinationError, StartError};
use super::pages::layout::problem_page;
use super::settings_form::FieldError;
use super::steering::SteeringError;

/// Why a page or an action is not given.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// No route has the address.
    #[error("there is no page at {path}; go on from the list of guests")]
    NoSuchPage {
        /// The path of the address.
        path: String,
    },
    /// No guest has the id.
    #[error(
        "there is no guest with the id {id} any more: its QEMU has ended, or landfall serve was \
         restarted; look for it in the list of guests, or add its monitor there"
    )]
    NoSuchGuest {
        /// The id.
        id: String,
    },
    /// No migration has the name.
    #[error(
        "there is no migration {name} in the folder of recordings; look for it in the list of \
         migrations"
    )]
    NoSuchMigration {
        /// The name.
        name: String,
    },
    /// The guest was not probed yet.
    #[error(
        "nothing is known of {guest} yet, so what a setting implies cannot be said; measure the guest \
         first, on its page"
    )]
    NotProbed {
        /// The guest.
        guest: String,
    },
    /// The answer took too long.
    #[error(
        "the answer took more than {seconds} seconds, so the request was given up; what it started may \
         still be running: reload the page, and repeat it if nothing happened"
    )]
    TimedOut {
        /// The limit.
        seconds: u64,
    },
    /// A guest is not added.
    #[error(transparent)]
    AddGuest(#[from] AddGuestError),
    /// A setting of the form is not valid.
    #[error("{0}. Nothing was started")]
    Field(FieldError),
    /// The destination of the form is not valid.
    #[error("{0}. Nothing was started")]
    Destination(#[from] DestinationError),
    /// The migration cannot be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The migration is not changed.
    #[error(transparent)]
    Change(SteeringError),
    /// The migration is not cancelled.
    #[error(transparent)]
    Cancel(SteeringError),
    /// The recording cannot be read.
    #[error(transparent)]
    Recording(#[from] FollowError),
    /// A task failed: a fault in landfall.
    #[error(
        "landfall serve could not finish the page ({0}); reload it, and report this if it happens again"
    )]
    Task(#[from] JoinError),
}

impl PageError {
    fn status(&self) -> StatusCode {
        match self {
            PageError::NoSuchPage { .. }
            | PageError::NoSuchGuest { .. }
            | PageError::NoSuchMigration { .. } => StatusCode::NOT_FOUND,
            PageError::NotProbed { .. } | PageError::Cancel(_) => StatusCode::CONFLICT,
            PageError::TimedOut { .. } => StatusCode::REQUEST_TIMEOUT,
            PageError::AddGuest(_)
            | PageError::Field(_)
            | PageError::Destination(_)
            | PageError::Start(_)
            | PageError::Change(_) => StatusCode::BAD_REQUEST,
            PageError::Recording(_) => StatusCode::UNPROCESSABLE_ENTITY,
            PageError::Task(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        (self.status(), problem_page(&self.to_string())).into_response()
    }
}
