//! The log pages of tape drives (SSC-4 §8.3, SPC-4 §7.3): errors, sequential access, device status, TapeAlert, capacity.
//!
//! Invariants: counters count since the cartridge was put in, or since they were cleared; a TapeAlert flag is told until it was read, or until
//! another cartridge is in.

use super::{Cdb, Failure, Tape};
use crate::engine::tape::{Counters, MediumError, Stop};
use crate::protocol::scsi::Answer;
use crate::protocol::scsi::log::{self, Page, Parameter, TAPE_ALERT};

const WRITE_ERRORS: u8 = 0x02;
const READ_ERRORS: u8 = 0x03;
const SEQUENTIAL: u8 = 0x0c;
const DEVICE_STATUS: u8 = 0x11;
/// Of IBM's drives; software asks all drives for it.
const CAPACITY: u8 = 0x31;

/// TapeAlert flags that are set (SSC-4 annex A).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Alert {
    HardError = 3,
    ReadFailure = 5,
    WriteFailure = 6,
    WriteProtect = 9,
    WormOverwrite = 60,
}

impl Alert {
    const ALL: [Self; 5] = [Self::HardError, Self::ReadFailure, Self::WriteFailure, Self::WriteProtect, Self::WormOverwrite];

    fn bit(self) -> u64 {
        1 << (self as u8 - 1)
    }
}

/// The bits of page B2h: flag 1 is the highest of the first byte.
pub(super) fn supported_alerts() -> [u8; 8] {
    Alert::ALL.iter().fold(0_u64, |flags, alert| flags | alert.bit().reverse_bits()).to_be_bytes()
}

/// What log pages remember.
#[derive(Debug, Default)]
pub(super) struct Logs {
    alerts: u64,
    /// What was counted when the counters were cleared.
    cleared: Counters,
}

impl Logs {
    /// Another cartridge is in.
    pub(super) fn begin(&mut self) {
        *self = Self::default();
    }

    /// Something stopped.
    pub(super) fn alert(&mut self, stop: &Stop) {
        let alerts: &[Alert] = match stop {
            Stop::Protected => &[Alert::WriteProtect],
            Stop::WormOverwrite => &[Alert::WormOverwrite],
            Stop::Medium(MediumError::Damaged(_) | MediumError::Unreachable) => &[Alert::HardError, Alert::ReadFailure],
            Stop::Medium(MediumError::Io(_) | MediumError::Full) => &[Alert::HardError, Alert::WriteFailure],
            _ => &[],
        };
        self.alerts |= alerts.iter().fold(0, |flags, alert| flags | alert.bit());
    }
}

impl Tape {
    /// LOG SENSE. TapeAlert flags are told once.
    pub(super) async fn log_sense(&self, cdb: &Cdb) -> Result<Answer, Failure> {
        let pages = self.pages_of_logs().await;
        let answer = log::sense(&pages, cdb)?;
        if log::asked(cdb)? == TAPE_ALERT {
            self.logs.lock().alerts = 0;
        }
        Ok(answer)
    }

    pub(super) fn log_select(&self, cdb: &Cdb) -> Result<Answer, Failure> {
        if log::select(cdb)? {
            *self.logs.lock() = Logs { alerts: 0, cleared: self.drive.counters() };
        }
        Ok(Answer::none())
    }

    /// TapeAlert flags, for the attribute that shows them.
    pub(super) fn alerts(&self) -> u64 {
        self.logs.lock().alerts
    }

    fn counted(&self) -> Counters {
        let (now, cleared) = (self.drive.counters(), self.logs.lock().cleared);
        Counters {
            written_bytes: now.written_bytes.saturating_sub(cleared.written_bytes),
            read_bytes: now.read_bytes.saturating_sub(cleared.read_bytes),
            write_errors: now.write_errors.saturating_sub(cleared.write_errors),
            read_errors: now.read_errors.saturating_sub(cleared.read_errors),
        }
    }

    async fn pages_of_logs(&self) -> Vec<Page> {
        let counted = self.counted();
        vec![
            errors(WRITE_ERRORS, counted.written_bytes, counted.write_errors),
            errors(READ_ERRORS, counted.read_bytes, counted.read_errors),
            self.sequential(&counted).await,
            self.device_status(),
            log::tape_alert(self.alerts()),
            self.capacity().await,
        ]
    }

    /// Bytes used and there are, in megabytes; zero without a cartridge.
    async fn megabytes(&self) -> (u64, u64) {
        match self.drive.head().await {
            Ok(head) => {
                let (extent, properties) = (head.medium().extent(), head.medium().properties());
                (extent.used_bytes / 1_000_000, properties.capacity_bytes / 1_000_000)
            }
            Err(_) => (0, 0),
        }
    }

    /// §8.3.2: what hosts wrote and read, the same on the medium (nothing is lost in compression that is told here), and how full it is.
    async fn sequential(&self, counted: &Counters) -> Page {
        let (used, all) = self.megabytes().await;
        let values = [counted.written_bytes, counted.written_bytes, counted.read_bytes, counted.read_bytes];
        let mut parameters: Vec<_> = (0..).zip(values).map(|(code, value)| Parameter::counter(code, value, 8)).collect();
        parameters.extend([Parameter::counter(4, used, 8), Parameter::counter(5, all - all / 16, 8)]);
        // No cleaning is asked for.
        parameters.push(Parameter::counter(0x100, 0, 4));
        Page { code: SEQUENTIAL, parameters }
    }

    /// §8.3.6, very high frequency data: what is in the drive.
    fn device_status(&self) -> Page {
        let status = self.drive.status();
        let medium = status.properties;
        // MACC 20h, CMPR 10h, WRTP 08h, DINIT 01h.
        let is_protected = medium.is_some_and(|medium| medium.is_protected);
        let squeezes = self.modes.lock().squeezes;
        let first = u8::from(status.is_ready) << 5 | u8::from(squeezes) << 4 | u8::from(is_protected) << 3 | 1;
        // RAA 20h: the robot may come; MPRSNT 10h; MSTD, MTHRD, MOUNTED 07h.
        let second = u8::from(!status.is_ready) << 5 | u8::from(medium.is_some()) << 4 | (u8::from(status.is_ready) * 7);
        Page { code: DEVICE_STATUS, parameters: vec![Parameter::list(0, &[first, second, 0, 0])] }
    }

    async fn capacity(&self) -> Page {
        let (used, all) = self.megabytes().await;
        let values = [all.saturating_sub(used), 0, all, 0];
        let parameters = (1..).zip(values).map(|(code, value)| Parameter::counter(code, value, 4)).collect();
        Page { code: CAPACITY, parameters }
    }
}

/// Error counters (SPC-4 §7.3.6, §7.3.14). Nothing is corrected by trying again: there are bytes, and what failed.
fn errors(code: u8, bytes: u64, failed: u64) -> Page {
    let values = [0, 0, 0, 0, 0, bytes, failed];
    let parameters = (0..).zip(values).map(|(code, value)| Parameter::counter(code, value, if code == 5 { 8 } else { 4 }));
    Page { code, parameters: parameters.collect() }
}
