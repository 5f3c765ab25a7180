//! The address of every page and action. `GET` shows something, `POST` does something.
//!
//! Which of them needs the token is decided in `access.rs`, for all of them before any handler runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Form, Path, Query, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, SET_COOKIE};
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use landfall_core::model::prior::PROBE_BUDGET;
use landfall_core::recording::RecordingLine;
use landfall_core::report::Report;
use landfall_migration::recording::first_and_last_line;
use maud::Markup;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::charts::PageWidth;
use super::guests::ListedGuest;
use super::migrations::{MigrationDestination, RecordedMigration};
use super::page_error::PageError;
use super::pages::guest_page::{self, WaitingQemu};
use super::pages::guests_page::{self, ActiveMigration};
use super::pages::history_page::{self, HistoryRow};
use super::pages::layout::login_page;
use super::pages::migration_page::{self, MigrationPageData};
use super::pages::what_if_page;
use super::settings_form::SettingsForm;
use super::timelines::{MigrationTimelines, ShownMigration};
use super::what_if::{WhatIf, WhatIfGrade, answer_what_if};
use super::{WebState, access, events, steering};

/// The largest form.
const MAX_FORM_BYTES: usize = 16 * 1024;

/// The longest time for an answer, including the time that the browser takes to send the form. A probe
/// takes longest.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

type FormFields = Vec<(String, String)>;
type SharedState = State<Arc<WebState>>;

/// Returns the router of all pages and actions, behind the access check.
pub fn router(state: Arc<WebState>) -> Router {
    let access = state.access.clone();
    Router::new()
        .route("/", get(show_guests))
        .route("/guests", post(add_guest))
        .route("/guests/{id}", get(show_guest))
        .route("/guests/{id}/implied", get(show_what_if))
        .route("/guests/{id}/look", post(probe_guest))
        .route("/guests/{id}/start", post(start_migration))
        .route("/migrations", get(show_history))
        .route("/migrations/{name}", get(show_migration))
        .route("/migrations/{name}/cancel", post(cancel_migration))
        .route("/migrations/{name}/set", post(change_settings))
        .route("/logout", post(log_out))
        .route("/login", get(|| async { login_page(None) }).post(log_in))
        .route("/style.css", get(|| asset("text/css", include_str!("assets/style.css"))))
        .route("/page.js", get(|| asset("text/javascript", include_str!("assets/page.js"))))
        .route("/icon.svg", get(|| asset("image/svg+xml", include_str!("assets/icon.svg"))))
        .layer(middleware::from_fn(limit_answer_time))
        // Events have no time limit: they last as long as the migration.
        .route("/migrations/{name}/events", get(follow_migration))
        .fallback(no_such_page)
        .layer(DefaultBodyLimit::max(MAX_FORM_BYTES))
        .layer(middleware::from_fn_with_state(access, access::guard_request))
        .with_state(state)
}

async fn limit_answer_time(request: Request, next: Next) -> Response {
    match timeout(ANSWER_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => PageError::TimedOut { seconds: ANSWER_TIMEOUT.as_secs() }.into_response(),
    }
}

async fn no_such_page(uri: Uri) -> PageError {
    PageError::NoSuchPage { path: uri.path().to_owned() }
}

async fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let kind = format!("{kind}; charset=utf-8");
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "max-age=300".to_owned())], text)
}

async fn log_in(State(state): SharedState, Form(fields): Form<FormFields>) -> Response {
    if state.access.token.matches(field(&fields, "token").trim()) {
        match state.access.login_cookie() {
            Ok(cookie) => ([(SET_COOKIE, cookie)], Redirect::to("/")).into_response(),
            Err(error) => {
                let problem = error.to_string();
                (StatusCode::INTERNAL_SERVER_ERROR, login_page(Some(&problem))).into_response()
            }
        }
    } else {
        let problem = "That is not the token of this landfall serve. Copy it from the line that it \
                       printed when it started; without --token-file each start makes a new token.";
        (StatusCode::UNAUTHORIZED, login_page(Some(problem))).into_response()
    }
}

async fn log_out(State(state): SharedState, headers: HeaderMap) -> Response {
    state.access.close_session(&headers);
    ([(SET_COOKIE, state.access.logout_cookie())], Redirect::to("/login")).into_response()
}

async fn show_guests(State(state): SharedState) -> Markup {
    let mut active: Vec<ActiveMigration> = state
        .running_migrations()
        .into_iter()
        .map(|(source, name)| ActiveMigration { source, name: Some(name), progress: None })
        .collect();
    // Migrations with a page of their own come first, so that they are found first.
    active.extend(steering::list_steered_migrations().await);
    guests_page::guests_page(&state.guests.list(), &active)
}

async fn add_guest(
    State(state): SharedState,
    Form(fields): Form<FormFields>,
) -> Result<Redirect, PageError> {
    let id = state.guests.add(field(&fields, "monitor").trim())?;
    Ok(Redirect::to(&format!("/guests/{id}")))
}

async fn show_guest(
    State(state): SharedState,
    Path(id): Path<String>,
    Query(fields): Query<FormFields>,
) -> Result<Markup, PageError> {
    let guest = state.guest(&id)?;
    let form = SettingsForm::parse(&fields);
    let what_if = state.answer_what_if(&guest, &form, WhatIfGrade::Planned).await;
    let monitor = guest.monitor.to_string();
    let running = state.running_migrations().into_iter().find(|(source, _)| *source == monitor);
    let waiting = find_waiting_qemus(&state.guests.list(), &guest);
    Ok(guest_page::guest_page(
        &guest,
        &form,
        what_if.as_ref(),
        &waiting,
        running.as_ref().map(|(_, name)| name.as_str()),
        page_width(&fields),
    ))
}

/// Finds the QEMUs on this host, other than the guest's, that were started to wait for a migration.
fn find_waiting_qemus(guests: &[ListedGuest], source: &ListedGuest) -> Vec<WaitingQemu> {
    let owner = source.qemu.as_ref().map(|qemu| &qemu.owner);
    let others = guests.iter().filter(|guest| guest.id != source.id);
    let waiting = others.filter_map(|guest| {
        let qemu = guest.qemu.as_ref().filter(|qemu| qemu.owner.may_be_offered(owner))?;
        let incoming = qemu.options.incoming.clone()?;
        Some(WaitingQemu {
            uri: incoming.replacen("tcp:0:", "tcp:127.0.0.1:", 1),
            monitor: guest.monitor.to_string(),
            name: guest.name.clone(),
        })
    });
    waiting.collect()
}

/// Renders the parts of a guest's page that follow from its settings.
async fn show_what_if(
    State(state): SharedState,
    Path(id): Path<String>,
    Query(fields): Query<FormFields>,
) -> Result<Response, PageError> {
    let guest = state.guest(&id)?;
    let started = Instant::now();
    let form = SettingsForm::parse(&fields);
    let grade = match field(&fields, "grade") {
        "simulated" => WhatIfGrade::Simulated,
        _ => WhatIfGrade::Planned,
    };
    let what_if = state.answer_what_if(&guest, &form, grade).await;
    let what_if = what_if.ok_or_else(|| PageError::NotProbed { guest: guest.name.clone() })?;
    let planned = started.elapsed();
    let parts = what_if_page::changing_parts(&what_if, &form, page_width(&fields));
    let (plan, draw) = (millis(planned), millis(started.elapsed() - planned));
    let timing = format!("plan;dur={plan:.2}, draw;dur={draw:.2}");
    Ok(([(HeaderName::from_static("server-timing"), timing)], parts).into_response())
}

async fn probe_guest(
    State(state): SharedState,
    Path(id): Path<String>,
) -> Result<Redirect, PageError> {
    let guest = state.guest(&id)?;
    state.guests.probe_guest(&guest, PROBE_BUDGET).await;
    Ok(Redirect::to(&format!("/guests/{id}")))
}

async fn start_migration(
    State(state): SharedState,
    Path(id): Path<String>,
    Form(fields): Form<FormFields>,
) -> Result<Redirect, PageError> {
    let guest = state.guest(&id)?;
    let form = SettingsForm::parse(&fields);
    if let Some(problem) = form.problems.first() {
        return Err(PageError::Field(problem.error.clone()));
    }
    let (uri, monitor) = (field(&fields, "destination"), field(&fields, "destination-qmp"));
    let destination = MigrationDestination::parse(uri, monitor)?;
    let source = guest.monitor.to_string();
    let name = state.migrations.start(&guest.name, &source, &destination, &form)?;
    Ok(to_migration(&name))
}

async fn show_history(State(state): SharedState) -> Result<Markup, PageError> {
    let migrations = state.migrations.list();
    let rows = spawn_blocking(move || {
        migrations.into_iter().map(history_row).collect::<Vec<HistoryRow>>()
    })
    .await?;
    Ok(history_page::history_page(&rows))
}

/// Reads what the list shows of a migration from the ends of its recording.
fn history_row(migration: RecordedMigration) -> HistoryRow {
    let (head, last) = first_and_last_line(&migration.file);
    let report = match last {
        Some(RecordingLine::Report { report }) => Some(*report),
        _ => migration.report(),
    };
    let is_running = report.is_none() && migration.is_running();
    HistoryRow { policy: head.map(|head| head.policy), report, is_running, migration }
}

async fn show_migration(
    State(state): SharedState,
    Path(name): Path<String>,
    Query(fields): Query<FormFields>,
) -> Result<Markup, PageError> {
    let migration = state.migration(&name)?;
    let is_running = migration.is_running();
    let shown = state.timelines.read(&migration.file).await?;
    let draw_settings = |shown: &ShownMigration| shown.timeline.settings.clone();
    let last_settings = MigrationTimelines::draw(&shown, draw_settings).await?;
    let settings = steering::settings_in_force(&migration, last_settings.as_ref()).await;
    let width = page_width(&fields);
    let draw_page = move |shown: &ShownMigration| {
        let report: Option<Report> = shown.timeline.report.clone().or_else(|| migration.report());
        let data = MigrationPageData {
            migration: &migration,
            timeline: &shown.timeline,
            expected: shown.expected.as_ref(),
            is_running: is_running && report.is_none(),
            report: report.as_ref(),
        };
        migration_page::migration_page(&data, &settings, width)
    };
    MigrationTimelines::draw(&shown, draw_page).await
}

async fn follow_migration(
    State(state): SharedState,
    Path(name): Path<String>,
    Query(fields): Query<FormFields>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, PageError> {
    let last_id = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.parse().ok());
    let migration = state.migration(&name)?;
    Ok(events::follow_migration(state, migration, page_width(&fields), last_id))
}

async fn cancel_migration(
    State(state): SharedState,
    Path(name): Path<String>,
) -> Result<Redirect, PageError> {
    let migration = state.migration(&name)?;
    steering::cancel_migration(&migration).await.map_err(PageError::Cancel)?;
    Ok(to_migration(&name))
}

async fn change_settings(
    State(state): SharedState,
    Path(name): Path<String>,
    Form(fields): Form<FormFields>,
) -> Result<Redirect, PageError> {
    let migration = state.migration(&name)?;
    steering::change_settings(&migration, &fields).await.map_err(PageError::Change)?;
    Ok(to_migration(&name))
}

fn to_migration(name: &str) -> Redirect {
    Redirect::to(&format!("/migrations/{name}"))
}

/// Returns the text of a field; empty if the form does not have it.
fn field<'a>(fields: &'a FormFields, name: &str) -> &'a str {
    fields.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str())
}

/// Returns the width of the page, as the browser sent it.
fn page_width(fields: &FormFields) -> PageWidth {
    PageWidth::from_request(field(fields, "width").parse().ok())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl WebState {
    fn guest(&self, id: &str) -> Result<ListedGuest, PageError> {
        self.guests.get(id).ok_or_else(|| PageError::NoSuchGuest { id: id.to_owned() })
    }

    fn migration(&self, name: &str) -> Result<RecordedMigration, PageError> {
        let found = self.migrations.get(name);
        found.ok_or_else(|| PageError::NoSuchMigration { name: name.to_owned() })
    }

    /// Answers what settings imply for a guest; `None` if the guest was not probed.
    async fn answer_what_if(
        &self,
        guest: &ListedGuest,
        form: &SettingsForm,
        grade: WhatIfGrade,
    ) -> Option<WhatIf> {
        let probe = guest.probe.clone()?;
        let work = match grade {
            WhatIfGrade::Planned => &self.plans,
            WhatIfGrade::Simulated => &self.simulations,
        };
        let permit = Arc::clone(work).acquire_owned().await.ok()?;
        let form = form.clone();
        // Dropped with this future, when the browser disconnects.
        let request = Arc::new(());
        let waiting = Arc::downgrade(&request);
        let is_wanted = move || waiting.strong_count() > 0;
        // The permit goes with the work, which goes on for a while after the browser has disconnected.
        let work = move || {
            let _permit = permit;
            is_wanted().then(|| answer_what_if(&probe, &form, grade, &is_wanted)).flatten()
        };
        spawn_blocking(work).await.ok()?
    }

    /// Returns the monitor of the source and the name of each migration that the page started and that
    /// still runs.
    fn running_migrations(&self) -> Vec<(String, String)> {
        let running = self.migrations.list().into_iter().filter(RecordedMigration::is_running);
        running.filter_map(|it| Some((it.start_note.as_ref()?.source.clone(), it.name))).collect()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Method;
    use axum::http::header::{AUTHORIZATION, HOST};
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::web::PLANS_AT_A_TIME;
    use crate::web::access::{AccessControl, AccessRight, required_right};
    use crate::web::guests::GuestList;
    use crate::web::migrations::MigrationFolder;
    use crate::web::sessions::LoginSessions;
    use crate::web::token::LoginToken;

    /// The table at the head of `access.rs`.
    const ROUTES: [(&str, &str, AccessRight); 17] = [
        ("GET", "/login", AccessRight::Open),
        ("POST", "/login", AccessRight::Open),
        ("GET", "/style.css", AccessRight::Open),
        ("GET", "/page.js", AccessRight::Open),
        ("GET", "/icon.svg", AccessRight::Open),
        ("GET", "/", AccessRight::Read),
        ("GET", "/guests/1", AccessRight::Read),
        ("GET", "/guests/1/implied", AccessRight::Read),
        ("GET", "/migrations", AccessRight::Read),
        ("GET", "/migrations/x", AccessRight::Read),
        ("GET", "/migrations/x/events", AccessRight::Read),
        ("POST", "/guests", AccessRight::Change),
        ("POST", "/guests/1/look", AccessRight::Change),
        ("POST", "/guests/1/start", AccessRight::Change),
        ("POST", "/migrations/x/set", AccessRight::Change),
        ("POST", "/migrations/x/cancel", AccessRight::Change),
        ("POST", "/logout", AccessRight::Change),
    ];

    fn state(folder: &tempfile::TempDir) -> WebState {
        let access = AccessControl {
            token: LoginToken::generate().unwrap(),
            sessions: LoginSessions::default(),
            host_names: vec![],
            encrypted: false,
            public_read: false,
        };
        WebState {
            access: Arc::new(access),
            guests: GuestList::default(),
            migrations: MigrationFolder::open(folder.path(), "/bin/true".into()).unwrap(),
            timelines: MigrationTimelines::default(),
            simulations: Arc::new(Semaphore::new(1)),
            plans: Arc::new(Semaphore::new(PLANS_AT_A_TIME)),
        }
    }

    #[tokio::test]
    async fn every_route_of_the_access_table_exists_and_needs_its_right() {
        let folder = tempfile::tempdir().unwrap();
        let state = Arc::new(state(&folder));
        let bearer = format!("Bearer {}", state.access.token.as_str());
        let pages = TowerToHyperService::new(router(state));
        for (method, path, right) in ROUTES {
            let method: Method = method.parse().unwrap();
            assert_eq!(required_right(&method, path), right, "{method} {path}");
            let request = |authorization: &str| {
                let request =
                    Request::builder().method(&method).uri(path).header(HOST, "localhost");
                let request = request.header("sec-fetch-site", "same-origin");
                request.header(AUTHORIZATION, authorization).body(Body::empty()).unwrap()
            };
            let status = pages.call(request("Bearer wrong")).await.unwrap().status();
            let refused = match right {
                AccessRight::Open => false,
                AccessRight::Read => status == StatusCode::SEE_OTHER,
                AccessRight::Change => status == StatusCode::UNAUTHORIZED,
            };
            assert_eq!(refused, right != AccessRight::Open, "{method} {path}: {status}");
            let answer = pages.call(request(&bearer)).await.unwrap();
            assert_ne!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
            let body = String::from_utf8_lossy(&body);
            assert!(!body.contains("There is no page at"), "{method} {path}: {body}");
        }
    }
}
