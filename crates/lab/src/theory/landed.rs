//! What a migration costs beyond the bytes of the guest's memory: its first pass, its pages on the
//! wire, its switch-over.

use std::time::{Duration, Instant};

use landfall_core::telemetry::sample::{Ram, Status};
use landfall_core::units::{ByteRate, Bytes, PAGE};
use landfall_qemu::monitor::MigrationParameters;
use landfall_testguest::{GuestSpec, PagesPerSecond, Workload};
use serde::Serialize;
use tokio::time::sleep;

use super::error::TheoryError;
use super::stage::TheoryStage;

const ASK: Duration = Duration::from_millis(4);
const PATIENCE: Duration = Duration::from_secs(60);

/// QEMU is to switch over when what remains takes no longer.
const DOWNTIME: Duration = Duration::from_millis(250);

/// Bytes that a page of zeros takes on the wire: its address, and a byte.
const ZERO_PAGE: f64 = 9.0;

/// One migration without help, to its end.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Landing {
    /// What kind of guest.
    pub kind: &'static str,
    /// Its memory.
    pub memory: Bytes,
    /// Rate of the link.
    pub link: ByteRate,
    /// QEMU's `max-bandwidth`, as a part of it.
    pub limit: f64,
    /// From the command until QEMU had looked at its bitmap for the first time.
    pub setup: Duration,
    /// From there to just before the next look: all memory has been handed to the socket.
    pub first_pass: Duration,
    /// Memory that went as pages with contents in it.
    pub first_normal: Bytes,
    /// Memory that went as pages of zeros.
    pub first_zero: Bytes,
    /// Bytes on the link for each page with contents, all others taken off.
    pub bytes_per_page: f64,
    /// Pages with contents that left after the guest had stopped.
    pub remaining: Bytes,
    /// From its last beat at the source to its first at the destination.
    pub blackout: Duration,
    /// What QEMU calls the downtime.
    pub downtime: Option<Duration>,
}

impl Landing {
    /// What the first pass took beyond its bytes at the rate it was limited to.
    pub fn first_pass_beyond(&self) -> f64 {
        let rate = self.link.0 * self.limit.min(1.0);
        self.first_pass.as_secs_f64() - self.first_normal.as_f64() / rate
    }

    /// What the blackout took beyond what remained at the rate of the link.
    pub fn switch_over(&self) -> f64 {
        self.blackout.as_secs_f64() - self.remaining.as_f64() / self.link.0
    }
}

/// All the migrations: guests of the middle over three links, and idle ones of two sizes.
pub async fn all() -> Result<Vec<Landing>, TheoryError> {
    let mut landings = Vec::new();
    for (rate, times) in [(25, 1), (50, 2), (100, 2)] {
        let link = ByteRate::mb(rate);
        let pages = PagesPerSecond((0.4 * link.0 / PAGE.as_f64()) as u64);
        for limit in [1.0, 0.9].repeat(times) {
            landings
                .push(one(GuestSpec::new(Workload::Random { rate: pages }), link, limit).await?);
        }
    }
    for memory in [256, 512, 1024, 2048] {
        let spec = GuestSpec { memory: Bytes::mib(memory), ..GuestSpec::new(Workload::Idle) };
        landings.push(one(spec, ByteRate::mb(100), 1.0).await?);
    }
    Ok(landings)
}

async fn one(spec: GuestSpec, link: ByteRate, limit: f64) -> Result<Landing, TheoryError> {
    let mut stage = TheoryStage::boot(&spec, link).await?;
    let known = stage.machine().await?.query_migration_parameters().await?;
    let mut settings = MigrationParameters::default();
    settings.set_max_bandwidth(&known, ByteRate(link.0 * limit).per_second());
    settings.set_downtime_limit(&known, DOWNTIME);
    stage.machine().await?.set_migration_parameters(&settings).await?;
    let uri = stage.pair.uri();
    let begun = Instant::now();
    stage.machine().await?.migrate(&uri).await?;

    let (mut set_up, mut first): (Option<Instant>, Option<(Instant, Ram)>) = (None, None);
    let mut last_active: Option<Ram> = None;
    let ended = loop {
        let migration = stage.machine().await?.query_migrate().await?;
        let now = Instant::now();
        if migration.status.is_over() {
            break migration;
        }
        if let (Status::Active, Some(ram)) = (migration.status, migration.ram) {
            if ram.syncs >= 1 {
                set_up.get_or_insert(now);
            }
            // The last answer before the second look: after it, the next pass counts as well.
            if ram.syncs == 1 {
                first = Some((now, ram));
            }
            last_active = Some(ram);
        }
        if begun.elapsed() > PATIENCE {
            return Err(TheoryError::NotLanded("it takes too long".to_owned()));
        }
        sleep(ASK).await;
    };
    let (Status::Completed, Some(all)) = (ended.status, ended.ram) else {
        return Err(TheoryError::NotLanded(ended.error.unwrap_or_default()));
    };
    let beats = stage.pair.source.heartbeats();
    let arrived = beats.beat_from(stage.pair.destination.qemu_index(), None, PATIENCE)?;
    let timeline = beats.timeline();
    let before = timeline.beats(0).iter().rev().find(|beat| **beat < arrived);
    let (passed, first_ram) = first.unwrap_or((arrived, all));
    let zero_pages = all.duplicate.as_f64() / PAGE.as_f64();
    let pages = all.normal.as_f64() / PAGE.as_f64();
    let passed_bytes = stage.pair.link.passed().as_f64();
    Ok(Landing {
        kind: spec.kind.name(),
        memory: spec.memory,
        link,
        limit,
        setup: set_up.map_or(Duration::ZERO, |at| at - begun),
        first_pass: set_up.map_or(Duration::ZERO, |at| passed.saturating_duration_since(at)),
        first_normal: first_ram.normal,
        first_zero: first_ram.duplicate,
        bytes_per_page: (passed_bytes - ZERO_PAGE * zero_pages) / pages,
        remaining: all.normal.saturating_sub(last_active.map_or(all.normal, |ram| ram.normal)),
        blackout: before.map_or(Duration::ZERO, |before| arrived - *before),
        downtime: ended.downtime,
    })
}
