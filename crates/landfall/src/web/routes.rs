//! Which address is what. What only shows is GET; whatever does something is POST.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Form, Path, Query, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, SET_COOKIE};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use landfall_core::model::prior::PROBE_BUDGET;
use landfall_core::recording::RecordingLine;
use landfall_core::report::Report;
use landfall_qemu::monitor;
use landfall_qemu::qmp::QmpAddress;
use maud::Markup;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::foreseen::foreseen;
use super::guest_page::Nearby;
use super::guests::Guest;
use super::guests_page::UnderWay;
use super::history_page::Row;
use super::implied::{Grade, Implied, implied};
use super::layout::{self, problem};
use super::migration_page::Shown;
use super::migrations::{Migration, Way};
use super::pictures::Room;
use super::settings::Settings;
use super::track::Track;
use super::{
    Site, access, control, events, guest_page, guests_page, history_page, implied_page,
    migration_page,
};

/// No form is larger.
const BODY: usize = 16 * 1024;

/// An answer takes no longer, what it waits for from the browser included; a look at a guest is the
/// longest.
const ANSWER: Duration = Duration::from_secs(30);

type Fields = Vec<(String, String)>;
type Shared = State<Arc<Site>>;

/// All of them, behind the guard.
pub fn all(site: Arc<Site>) -> Router {
    let access = site.access.clone();
    Router::new()
        .route("/", get(guests))
        .route("/guests", post(add))
        .route("/guests/{id}", get(guest))
        .route("/guests/{id}/implied", get(what_is_implied))
        .route("/guests/{id}/look", post(look))
        .route("/guests/{id}/start", post(start))
        .route("/migrations", get(history))
        .route("/migrations/{name}", get(migration))
        .route("/migrations/{name}/cancel", post(cancel))
        .route("/migrations/{name}/set", post(change))
        .route("/logout", post(logout))
        .route("/login", get(|| async { layout::login(None) }).post(login))
        .route("/style.css", get(|| asset("text/css", include_str!("assets/style.css"))))
        .route("/page.js", get(|| asset("text/javascript", include_str!("assets/page.js"))))
        .route("/icon.svg", get(|| asset("image/svg+xml", include_str!("assets/icon.svg"))))
        .layer(middleware::from_fn(in_time))
        // What is followed goes on for as long as it goes on.
        .route("/migrations/{name}/events", get(follow))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "There is no such page.") })
        .layer(DefaultBodyLimit::max(BODY))
        .layer(middleware::from_fn_with_state(access, access::guard))
        .with_state(site)
}

async fn in_time(request: Request, next: Next) -> Response {
    match timeout(ANSWER, next.run(request)).await {
        Ok(response) => response,
        Err(_) => problem(StatusCode::REQUEST_TIMEOUT, "That took too long, and was given up."),
    }
}

async fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let kind = format!("{kind}; charset=utf-8");
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "max-age=300".to_owned())], text)
}

async fn login(State(site): Shared, Form(fields): Form<Fields>) -> Response {
    let token = field(&fields, "token").unwrap_or_default();
    if site.access.token.is(token.trim()) {
        ([(SET_COOKIE, site.access.cookie())], Redirect::to("/")).into_response()
    } else {
        let wrong =
            "That is not the token of this landfall serve; it has another after each start.";
        (StatusCode::UNAUTHORIZED, layout::login(Some(wrong))).into_response()
    }
}

async fn logout(State(site): Shared) -> Response {
    ([(SET_COOKIE, site.access.no_cookie())], Redirect::to("/login")).into_response()
}

async fn guests(State(site): Shared) -> Markup {
    let mut under_way: Vec<UnderWay> = site
        .under_way()
        .into_iter()
        .map(|(source, name)| UnderWay { source, name: Some(name), stands: None })
        .collect();
    // Those of the page are in front, and found first.
    under_way.extend(control::elsewhere().await);
    guests_page::guests(&site.guests.list(), &under_way)
}

async fn add(State(site): Shared, Form(fields): Form<Fields>) -> Response {
    let monitor = field(&fields, "monitor").unwrap_or_default().trim().parse::<QmpAddress>();
    let added = monitor.map_err(|error| error.to_string()).and_then(|it| site.guests.add(it));
    match added {
        Ok(id) => Redirect::to(&format!("/guests/{id}")).into_response(),
        Err(what) => problem(StatusCode::BAD_REQUEST, &what),
    }
}

async fn guest(
    State(site): Shared,
    Path(id): Path<String>,
    Query(fields): Query<Fields>,
) -> Response {
    let Some(guest) = site.guests.get(&id) else { return no_guest() };
    let settings = Settings::read(&fields);
    let implied = site.implied(&guest, &settings, Grade::Planned).await;
    let under_way = site.under_way();
    let monitor = guest.monitor.to_string();
    let name = under_way.iter().find(|(source, _)| *source == monitor).map(|(_, name)| name);
    let nearby = nearby(&site.guests.list(), &guest);
    let name = name.map(String::as_str);
    guest_page::guest(&guest, &settings, implied.as_ref(), &nearby, name, room(&fields))
        .into_response()
}

/// QEMUs on this host that wait for a guest, or did.
fn nearby(guests: &[Guest], but: &Guest) -> Vec<Nearby> {
    let others = guests.iter().filter(|guest| guest.id != but.id);
    let waiting = others.filter_map(|guest| {
        let incoming = guest.qemu.as_ref()?.incoming.clone()?;
        Some((
            incoming.replacen("tcp:0:", "tcp:127.0.0.1:", 1),
            guest.monitor.to_string(),
            guest.name.clone(),
        ))
    });
    waiting.collect()
}

/// The parts of a guest's page that follow from its settings.
async fn what_is_implied(
    State(site): Shared,
    Path(id): Path<String>,
    Query(fields): Query<Fields>,
) -> Response {
    let Some(guest) = site.guests.get(&id) else { return no_guest() };
    let begun = Instant::now();
    let settings = Settings::read(&fields);
    let thorough = field(&fields, "grade") == Some("simulated");
    let grade = if thorough { Grade::Simulated } else { Grade::Planned };
    let Some(implied) = site.implied(&guest, &settings, grade).await else {
        return problem(StatusCode::CONFLICT, "Nobody has looked at this guest yet.");
    };
    let planned = begun.elapsed();
    let parts = implied_page::parts(&implied, &settings, room(&fields));
    let (plan, draw) = (millis(planned), millis(begun.elapsed() - planned));
    let timing = format!("plan;dur={plan:.2}, draw;dur={draw:.2}");
    ([(HeaderName::from_static("server-timing"), timing)], parts).into_response()
}

async fn look(State(site): Shared, Path(id): Path<String>) -> Response {
    let Some(guest) = site.guests.get(&id) else { return no_guest() };
    site.guests.look(&guest, PROBE_BUDGET).await;
    Redirect::to(&format!("/guests/{id}")).into_response()
}

async fn start(
    State(site): Shared,
    Path(id): Path<String>,
    Form(fields): Form<Fields>,
) -> Response {
    let Some(guest) = site.guests.get(&id) else { return no_guest() };
    let settings = Settings::read(&fields);
    if let Some((_, wrong)) = settings.wrong.first() {
        return problem(StatusCode::BAD_REQUEST, wrong);
    }
    let started = way(&fields).and_then(|way| {
        site.migrations.start(&guest.name, &guest.monitor.to_string(), &way, &settings)
    });
    match started {
        Ok(name) => Redirect::to(&format!("/migrations/{name}")).into_response(),
        Err(what) => problem(StatusCode::BAD_REQUEST, &what),
    }
}

fn way(fields: &Fields) -> Result<Way, String> {
    let destination = field(fields, "destination").unwrap_or_default().trim().to_owned();
    monitor::check_migration_uri(&destination).map_err(|error| error.to_string())?;
    let monitor = field(fields, "destination-qmp").map(str::trim).filter(|text| !text.is_empty());
    let monitor = monitor.map(|text| text.parse::<QmpAddress>().map_err(|error| error.to_string()));
    let destination_qmp = monitor.transpose()?.map(|address| address.to_string());
    Ok(Way { destination, destination_qmp })
}

async fn history(State(site): Shared) -> Response {
    let migrations = site.migrations.list();
    let rows = spawn_blocking(move || migrations.into_iter().map(row).collect::<Vec<Row>>()).await;
    match rows {
        Ok(rows) => history_page::history(&rows).into_response(),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// What the list shows of one, read from the ends of its recording.
fn row(migration: Migration) -> Row {
    let (head, last) = landfall_migration::recording::first_and_last_line(&migration.file);
    let reported = match last {
        Some(RecordingLine::Report { report }) => Some(*report),
        _ => migration.report(),
    };
    let under_way = reported.is_none() && migration.is_under_way();
    Row { policy: head.map(|head| head.policy), report: reported, under_way, migration }
}

async fn migration(
    State(site): Shared,
    Path(name): Path<String>,
    Query(fields): Query<Fields>,
) -> Response {
    let Some(migration) = site.migrations.get(&name) else { return no_migration() };
    let under_way = migration.is_under_way();
    let file = migration.file.clone();
    let read = spawn_blocking(move || {
        let mut track = Track::new(&file);
        let read = track.read_on();
        let foreseen = track.head().and_then(foreseen);
        read.map(|()| (track, foreseen))
    })
    .await;
    let (track, foreseen) = match read {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return problem(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string()),
        Err(error) => return problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    let report: Option<Report> = track.report.clone().or_else(|| migration.report());
    let shown = Shown {
        migration: &migration,
        track: &track,
        foreseen: foreseen.as_ref(),
        under_way: under_way && report.is_none(),
        report: report.as_ref(),
    };
    let demands = control::demands(&migration, track.demands.as_ref()).await;
    migration_page::migration(&shown, &demands, room(&fields)).into_response()
}

async fn follow(
    State(site): Shared,
    Path(name): Path<String>,
    Query(fields): Query<Fields>,
    headers: HeaderMap,
) -> Response {
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.parse().ok());
    match site.migrations.get(&name) {
        Some(migration) => events::follow(migration, room(&fields), last).into_response(),
        None => no_migration(),
    }
}

async fn cancel(State(site): Shared, Path(name): Path<String>) -> Response {
    let Some(migration) = site.migrations.get(&name) else { return no_migration() };
    match control::cancel(&migration).await {
        Ok(()) => Redirect::to(&format!("/migrations/{name}")).into_response(),
        Err(what) => problem(StatusCode::CONFLICT, &what),
    }
}

async fn change(
    State(site): Shared,
    Path(name): Path<String>,
    Form(fields): Form<Fields>,
) -> Response {
    let Some(migration) = site.migrations.get(&name) else { return no_migration() };
    match control::change(&migration, &fields).await {
        Ok(()) => Redirect::to(&format!("/migrations/{name}")).into_response(),
        Err(what) => problem(StatusCode::BAD_REQUEST, &what),
    }
}

fn no_guest() -> Response {
    problem(StatusCode::NOT_FOUND, "There is no such guest here any more.")
}

fn no_migration() -> Response {
    problem(StatusCode::NOT_FOUND, "There is no such migration in the folder of recordings.")
}

fn field<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// How wide pictures shall be, as the browser says.
fn room(fields: &Fields) -> Room {
    Room::of(field(fields, "width").and_then(|text| text.parse().ok()))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl Site {
    /// What a setting implies for a guest that was looked at.
    async fn implied(&self, guest: &Guest, settings: &Settings, grade: Grade) -> Option<Implied> {
        let looked = guest.looked.clone()?;
        let _turn = match grade {
            Grade::Planned => None,
            Grade::Simulated => Some(self.simulations.acquire().await.ok()?),
        };
        let settings = settings.clone();
        // Dropped with this answer, when the browser wants it no more.
        let asking = Arc::new(());
        let asked = Arc::downgrade(&asking);
        let wanted = move || asked.strong_count() > 0;
        spawn_blocking(move || implied(&looked, &settings, grade, &wanted)).await.ok()?
    }

    /// Migrations that go on: the source's monitor, and the name.
    fn under_way(&self) -> Vec<(String, String)> {
        let all = self.migrations.list().into_iter().filter(Migration::is_under_way);
        all.filter_map(|it| Some((it.started.as_ref()?.source.clone(), it.name))).collect()
    }
}
