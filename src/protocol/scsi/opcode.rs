//! The table of commands: one row says how a command is recognized, which of its bits are allowed, what data it moves, and what a
//! reservation does to it. It routes, it checks, and it answers REPORT SUPPORTED OPERATION CODES.
//!
//! What lives here: the words of the table, and the rows of every type and of disks; `opcode/stream.rs` has those of tape drives,
//! `opcode/changer.rs` those of changers.
//!
//! Invariant: the usage of a row is as long as its CDB, and has in byte 0 the code and in byte 1 (low bits) the service action, as
//! SPC-4 §6.35.3 has it.

mod changer;
mod stream;

use super::cdb::Cdb;
use super::sense::Sense;
pub use changer::CHANGER;
pub use stream::STREAM;

/// What a reservation of another initiator does to a command (SPC-4 table 68, SBC-3 table 13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Always allowed.
    Free,
    /// Reads the medium: allowed under "write exclusive".
    Read,
    /// Not allowed.
    Write,
}

impl Access {
    /// Whether the command changes nothing, so that it may be given up half-way.
    pub fn reads_only(self) -> bool {
        self == Self::Read
    }
}

/// A field of a CDB: where, and how many bytes.
type Place = (u8, u8);

/// What data a command moves, and how it says how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    None,
    /// Parameters in, always so many bytes.
    Fixed(u8),
    /// Parameters in: the allocation length.
    In(Place),
    /// Parameters out: the parameter list length.
    Out(Place),
    /// Blocks in: the transfer length; in the second form zero is 256 (READ(6)).
    BlocksIn(Place),
    BlocksIn256(Place),
    BlocksOut(Place),
    BlocksOut256(Place),
    /// Twice as many blocks (COMPARE AND WRITE).
    BlocksOutTwice(Place),
    /// By BYTCHK: nothing, blocks, or one block (VERIFY).
    VerifyOut(Place),
    /// One block, or none with NDOB (WRITE SAME).
    SameOut,
    /// Records: a count of blocks with FIXED, else of bytes (SSC-4 §7.2, §7.3).
    RecordsIn(Place),
    RecordsOut(Place),
    /// The same, or nothing without BYTCMP (VERIFY(6)).
    RecordsCompared(Place),
}

/// What a command of which the bytes are known moves, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moves {
    /// No data.
    Nothing,
    /// At most so many to the initiator.
    In(u64),
    /// So many from the initiator.
    Out(u64),
}

/// Which command it is: names that differ in the size of their fields only are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    // Of every type.
    TestUnitReady,
    RequestSense,
    Inquiry,
    ModeSelect,
    ModeSense,
    Reserve,
    Release,
    ReportLuns,
    ReservationsIn,
    ReservationsOut,
    ReportTargetPortGroups,
    ReportOpcodes,
    ReportTaskManagement,
    // Of disks.
    Read,
    Write,
    WriteAndVerify,
    WriteAtomic,
    WriteSame,
    OrWrite,
    CompareAndWrite,
    Verify,
    Prefetch,
    SynchronizeCache,
    Unmap,
    ReadCapacity,
    ReadCapacityLong,
    LbaStatus,
    ReadDefects,
    StartStop,
    PreventRemoval,
    ExtendedCopy,
    CopyStatus,
    CopyParameters,
    // Of tape drives.
    Rewind,
    BlockLimits,
    Format,
    WriteFilemarks,
    Space,
    Erase,
    Load,
    Locate,
    ReadPosition,
    DensitySupport,
    LogSelect,
    LogSense,
    ReadAttribute,
    WriteAttribute,
    SecurityIn,
    // Of changers.
    InitializeElements,
    OpenClose,
    PositionToElement,
    MoveMedium,
    ExchangeMedium,
    ElementStatus,
    SendVolumeTag,
    VolumeAddress,
}

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Opcode {
    /// The standard's name.
    pub name: &'static str,
    /// Which command it is.
    pub verb: Verb,
    /// Byte 1 has a service action.
    pub has_action: bool,
    /// The CDB with every bit set that may be: CDB USAGE DATA.
    pub usage: &'static [u8],
    /// What it moves.
    pub data: Data,
    /// What reservations do to it.
    pub access: Access,
}

const fn row(name: &'static str, verb: Verb, data: Data, access: Access, usage: &'static [u8]) -> Opcode {
    Opcode { name, verb, has_action: false, usage, data, access }
}

const fn act(name: &'static str, verb: Verb, data: Data, access: Access, usage: &'static [u8]) -> Opcode {
    Opcode { name, verb, has_action: true, usage, data, access }
}

const X: u8 = 0xff;
use Access::{Free, Read as Reads, Write as Writes};
use Data::{BlocksIn, BlocksIn256, BlocksOut, BlocksOut256, BlocksOutTwice, In, Out, SameOut, VerifyOut};
use Verb as V;

/// Commands of every device type (SPC-4).
pub static PRIMARY: &[Opcode] = &[
    row("TEST UNIT READY", V::TestUnitReady, Data::None, Free, &[0x00, 0, 0, 0, 0, 0]),
    row("REQUEST SENSE", V::RequestSense, In((4, 1)), Free, &[0x03, 1, 0, 0, X, 0]),
    row("INQUIRY", V::Inquiry, In((3, 2)), Free, &[0x12, 1, X, X, X, 0]),
    row("MODE SELECT(6)", V::ModeSelect, Out((4, 1)), Writes, &[0x15, 0x11, 0, 0, X, 0]),
    row("RESERVE(6)", V::Reserve, Data::None, Free, &[0x16, 0, 0, 0, 0, 0]),
    row("RELEASE(6)", V::Release, Data::None, Free, &[0x17, 0, 0, 0, 0, 0]),
    row("MODE SENSE(6)", V::ModeSense, In((4, 1)), Writes, &[0x1a, 0x08, X, X, X, 0]),
    row("MODE SELECT(10)", V::ModeSelect, Out((7, 2)), Writes, &[0x55, 0x11, 0, 0, 0, 0, 0, X, X, 0]),
    row("MODE SENSE(10)", V::ModeSense, In((7, 2)), Writes, &[0x5a, 0x18, X, X, 0, 0, 0, X, X, 0]),
    act("PERSISTENT RESERVE IN", V::ReservationsIn, In((7, 2)), Free, &[0x5e, 0x00, 0, 0, 0, 0, 0, X, X, 0]),
    act("PERSISTENT RESERVE IN", V::ReservationsIn, In((7, 2)), Free, &[0x5e, 0x01, 0, 0, 0, 0, 0, X, X, 0]),
    act("PERSISTENT RESERVE IN", V::ReservationsIn, In((7, 2)), Free, &[0x5e, 0x02, 0, 0, 0, 0, 0, X, X, 0]),
    act("PERSISTENT RESERVE IN", V::ReservationsIn, In((7, 2)), Free, &[0x5e, 0x03, 0, 0, 0, 0, 0, X, X, 0]),
    act("PERSISTENT RESERVE OUT", V::ReservationsOut, Out((5, 4)), Free, &[0x5f, 0x00, X, 0, 0, X, X, X, X, 0]),
    act("PERSISTENT RESERVE OUT", V::ReservationsOut, Out((5, 4)), Free, &[0x5f, 0x01, X, 0, 0, X, X, X, X, 0]),
    act("PERSISTENT RESERVE OUT", V::ReservationsOut, Out((5, 4)), Free, &[0x5f, 0x02, X, 0, 0, X, X, X, X, 0]),
    act("PERSISTENT RESERVE OUT", V::ReservationsOut, Out((5, 4)), Free, &[0x5f, 0x03, X, 0, 0, X, X, X, X, 0]),
    act("PERSISTENT RESERVE OUT", V::ReservationsOut, Out((5, 4)), Free, &[0x5f, 0x04, X, 0, 0, X, X, X, X, 0]),
    act("PERSISTENT RESERVE OUT", V::ReservationsOut, Out((5, 4)), Free, &[0x5f, 0x05, X, 0, 0, X, X, X, X, 0]),
    act("PERSISTENT RESERVE OUT", V::ReservationsOut, Out((5, 4)), Free, &[0x5f, 0x06, X, 0, 0, X, X, X, X, 0]),
    act("PERSISTENT RESERVE OUT", V::ReservationsOut, Out((5, 4)), Free, &[0x5f, 0x07, X, 0, 0, X, X, X, X, 0]),
    row("REPORT LUNS", V::ReportLuns, In((6, 4)), Free, &[0xa0, 0, X, 0, 0, 0, X, X, X, X, 0, 0]),
    act("REPORT TARGET PORT GROUPS", V::ReportTargetPortGroups, In((6, 4)), Free, &[0xa3, 0x0a, 0, 0, 0, 0, X, X, X, X, 0, 0]),
    act("REPORT SUPPORTED OPERATION CODES", V::ReportOpcodes, In((6, 4)), Free, &[0xa3, 0x0c, 0x87, X, X, X, X, X, X, X, 0, 0]),
    act(
        "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
        V::ReportTaskManagement,
        In((6, 4)),
        Free,
        &[0xa3, 0x0d, 0x80, 0, 0, 0, X, X, X, X, 0, 0],
    ),
];

/// Commands of disks (SBC-3).
pub static DISK: &[Opcode] = &[
    row("READ(6)", V::Read, BlocksIn256((4, 1)), Reads, &[0x08, 0x1f, X, X, X, 0]),
    row("WRITE(6)", V::Write, BlocksOut256((4, 1)), Writes, &[0x0a, 0x1f, X, X, X, 0]),
    row("START STOP UNIT", V::StartStop, Data::None, Writes, &[0x1b, 1, 0, 0x0f, 0xf7, 0]),
    row("PREVENT ALLOW MEDIUM REMOVAL", V::PreventRemoval, Data::None, Free, &[0x1e, 0, 0, 0, 3, 0]),
    row("READ CAPACITY(10)", V::ReadCapacity, Data::Fixed(8), Free, &[0x25, 0, X, X, X, X, 0, 0, 1, 0]),
    row("READ(10)", V::Read, BlocksIn((7, 2)), Reads, &[0x28, 0x18, X, X, X, X, 0x3f, X, X, 0]),
    row("WRITE(10)", V::Write, BlocksOut((7, 2)), Writes, &[0x2a, 0x18, X, X, X, X, 0x3f, X, X, 0]),
    row("WRITE AND VERIFY(10)", V::WriteAndVerify, BlocksOut((7, 2)), Writes, &[0x2e, 0x16, X, X, X, X, 0x3f, X, X, 0]),
    row("VERIFY(10)", V::Verify, VerifyOut((7, 2)), Reads, &[0x2f, 0x16, X, X, X, X, 0x3f, X, X, 0]),
    row("PRE-FETCH(10)", V::Prefetch, Data::None, Reads, &[0x34, 2, X, X, X, X, 0x3f, X, X, 0]),
    row("SYNCHRONIZE CACHE(10)", V::SynchronizeCache, Data::None, Writes, &[0x35, 6, X, X, X, X, 0x3f, X, X, 0]),
    row("READ DEFECT DATA(10)", V::ReadDefects, In((7, 2)), Free, &[0x37, 0, 0x1f, 0, 0, 0, 0, X, X, 0]),
    row("WRITE SAME(10)", V::WriteSame, SameOut, Writes, &[0x41, 0x08, X, X, X, X, 0x3f, X, X, 0]),
    row("UNMAP", V::Unmap, Out((7, 2)), Writes, &[0x42, 0, 0, 0, 0, 0, 0x3f, X, X, 0]),
    act("EXTENDED COPY(LID1)", V::ExtendedCopy, Out((10, 4)), Writes, &[0x83, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, X, X, X, X, 0, 0]),
    act("RECEIVE COPY STATUS(LID1)", V::CopyStatus, In((10, 4)), Free, &[0x84, 0x00, X, 0, 0, 0, 0, 0, 0, 0, X, X, X, X, 0, 0]),
    act(
        "RECEIVE COPY OPERATING PARAMETERS",
        V::CopyParameters,
        In((10, 4)),
        Free,
        &[0x84, 0x03, 0, 0, 0, 0, 0, 0, 0, 0, X, X, X, X, 0, 0],
    ),
    row("READ(16)", V::Read, BlocksIn((10, 4)), Reads, &[0x88, 0x18, X, X, X, X, X, X, X, X, X, X, X, X, 0x3f, 0]),
    row(
        "COMPARE AND WRITE",
        V::CompareAndWrite,
        BlocksOutTwice((13, 1)),
        Writes,
        &[0x89, 0x18, X, X, X, X, X, X, X, X, 0, 0, 0, X, 0x3f, 0],
    ),
    row("WRITE(16)", V::Write, BlocksOut((10, 4)), Writes, &[0x8a, 0x18, X, X, X, X, X, X, X, X, X, X, X, X, 0x3f, 0]),
    row("ORWRITE(16)", V::OrWrite, BlocksOut((10, 4)), Writes, &[0x8b, 0x18, X, X, X, X, X, X, X, X, X, X, X, X, 0x3f, 0]),
    row(
        "WRITE AND VERIFY(16)",
        V::WriteAndVerify,
        BlocksOut((10, 4)),
        Writes,
        &[0x8e, 0x16, X, X, X, X, X, X, X, X, X, X, X, X, 0x3f, 0],
    ),
    row("VERIFY(16)", V::Verify, VerifyOut((10, 4)), Reads, &[0x8f, 0x16, X, X, X, X, X, X, X, X, X, X, X, X, 0x3f, 0]),
    row("PRE-FETCH(16)", V::Prefetch, Data::None, Reads, &[0x90, 2, X, X, X, X, X, X, X, X, X, X, X, X, 0x3f, 0]),
    row(
        "SYNCHRONIZE CACHE(16)",
        V::SynchronizeCache,
        Data::None,
        Writes,
        &[0x91, 6, X, X, X, X, X, X, X, X, X, X, X, X, 0x3f, 0],
    ),
    row("WRITE SAME(16)", V::WriteSame, SameOut, Writes, &[0x93, 0x09, X, X, X, X, X, X, X, X, X, X, X, X, 0x3f, 0]),
    row(
        "WRITE ATOMIC(16)",
        V::WriteAtomic,
        BlocksOut((12, 2)),
        Writes,
        &[0x9c, 0x18, X, X, X, X, X, X, X, X, X, X, X, X, 0x3f, 0],
    ),
    act("READ CAPACITY(16)", V::ReadCapacityLong, In((10, 4)), Free, &[0x9e, 0x10, X, X, X, X, X, X, X, X, X, X, X, X, 1, 0]),
    act("GET LBA STATUS", V::LbaStatus, In((10, 4)), Reads, &[0x9e, 0x12, X, X, X, X, X, X, X, X, X, X, X, X, 0, 0]),
    row("READ(12)", V::Read, BlocksIn((6, 4)), Reads, &[0xa8, 0x18, X, X, X, X, X, X, X, X, 0x3f, 0]),
    row("WRITE(12)", V::Write, BlocksOut((6, 4)), Writes, &[0xaa, 0x18, X, X, X, X, X, X, X, X, 0x3f, 0]),
    row("WRITE AND VERIFY(12)", V::WriteAndVerify, BlocksOut((6, 4)), Writes, &[0xae, 0x16, X, X, X, X, X, X, X, X, 0x3f, 0]),
    row("VERIFY(12)", V::Verify, VerifyOut((6, 4)), Reads, &[0xaf, 0x16, X, X, X, X, X, X, X, X, 0x3f, 0]),
    row("READ DEFECT DATA(12)", V::ReadDefects, In((6, 4)), Free, &[0xb7, 0x1f, X, X, X, X, X, X, X, X, 0, 0]),
];

impl Opcode {
    /// The operation code.
    pub fn code(&self) -> u8 {
        self.usage[0]
    }

    /// The service action.
    pub fn action(&self) -> Option<u8> {
        self.has_action.then(|| self.usage[1] & 0x1f)
    }

    /// Whether the CDB is this command's.
    pub fn is(&self, cdb: &Cdb) -> bool {
        cdb.code() == self.code() && self.action().is_none_or(|action| action == cdb.action())
    }

    /// What the command with these bytes moves.
    pub fn moves(&self, cdb: &Cdb, block_bytes: u32) -> Moves {
        let number = |(at, len): Place| cdb.number(at.into(), len.into());
        let blocks = |count: u64| count.saturating_mul(block_bytes.into());
        let of_256 = |count: u64| if count == 0 { 256 } else { count };
        let records = |place: Place| if cdb.bit(1, 0) { blocks(number(place)) } else { number(place) };
        match self.data {
            Data::None => Moves::Nothing,
            Data::Fixed(len) => Moves::In(len.into()),
            Data::In(place) => Moves::In(number(place)),
            Data::Out(place) => Moves::Out(number(place)),
            Data::BlocksIn(place) => Moves::In(blocks(number(place))),
            Data::BlocksIn256(place) => Moves::In(blocks(of_256(number(place)))),
            Data::BlocksOut(place) => Moves::Out(blocks(number(place))),
            Data::BlocksOut256(place) => Moves::Out(blocks(of_256(number(place)))),
            Data::BlocksOutTwice(place) => Moves::Out(blocks(number(place).saturating_mul(2))),
            Data::VerifyOut(place) => match cdb.byte(1) >> 1 & 3 {
                0 => Moves::Nothing,
                3 => Moves::Out(blocks(1)),
                _ => Moves::Out(blocks(number(place))),
            },
            Data::SameOut if self.usage[1] & 1 == 1 && cdb.bit(1, 0) => Moves::Nothing,
            Data::SameOut => Moves::Out(blocks(1)),
            Data::RecordsIn(place) => Moves::In(records(place)),
            Data::RecordsOut(place) => Moves::Out(records(place)),
            Data::RecordsCompared(place) if cdb.bit(1, 1) => Moves::Out(records(place)),
            Data::RecordsCompared(_) => Moves::Nothing,
        }
    }

    /// Refuses bits that the command does not have, and NACA. Vendor bits of the CONTROL byte are ignored.
    ///
    /// # Errors
    /// INVALID FIELD IN CDB with the highest such bit.
    pub fn check(&self, cdb: &Cdb) -> Result<(), Sense> {
        let control = self.usage.len() - 1;
        if cdb.len() < self.usage.len() {
            return Err(Sense::invalid_cdb(0));
        }
        for (at, usage) in self.usage.iter().enumerate().skip(1) {
            let allowed = if at == control { !0x04 } else { *usage | if at == 1 && self.has_action { 0x1f } else { 0 } };
            let wrong = cdb.byte(at) & !allowed;
            if wrong != 0 {
                return Err(Sense::invalid_cdb_bit(at as u16, wrong.ilog2() as u8));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_are_as_long_as_their_group_says() {
        let tables = [DISK, STREAM, CHANGER].map(|table| PRIMARY.iter().chain(table).collect::<Vec<_>>());
        for (opcode, table) in tables.iter().flat_map(|table| table.iter().map(move |opcode| (*opcode, table))) {
            let len = match opcode.code() >> 5 {
                0 => 6,
                1 | 2 => 10,
                4 => 16,
                5 => 12,
                _ => panic!("{}", opcode.name),
            };
            assert_eq!(opcode.usage.len(), len, "{}", opcode.name);
            let same = table.iter().filter(|other| other.is(&Cdb::new(opcode.usage))).count();
            assert_eq!(same, 1, "{}", opcode.name);
        }
    }

    #[test]
    fn bits_that_a_command_does_not_have_are_refused_with_their_place() {
        let read = DISK.iter().find(|opcode| opcode.name == "READ(10)").unwrap();
        let mut bytes = [0x28, 0x18, 0, 0, 0, 1, 0, 0, 1, 0xc0];
        assert_eq!(read.check(&Cdb::new(&bytes)), Ok(()));
        bytes[1] = 0x20;
        assert_eq!(read.check(&Cdb::new(&bytes)), Err(Sense::invalid_cdb_bit(1, 5)));
        bytes[1] = 0;
        bytes[9] = 4;
        assert_eq!(read.check(&Cdb::new(&bytes)), Err(Sense::invalid_cdb_bit(9, 2)));
        assert_eq!(read.check(&Cdb::new(&bytes[..8])), Err(Sense::invalid_cdb(0)));
    }

    #[test]
    fn what_tapes_move_is_counted_in_blocks_or_in_bytes() {
        let moves = |bytes: &[u8]| {
            let cdb = Cdb::new(bytes);
            STREAM.iter().find(|opcode| opcode.is(&cdb)).unwrap().moves(&cdb, 1024)
        };
        assert_eq!(moves(&[0x08, 0, 1, 0, 0, 0]), Moves::In(1 << 16));
        assert_eq!(moves(&[0x08, 1, 0, 0, 3, 0]), Moves::In(3072));
        assert_eq!(moves(&[0x0a, 1, 0, 0, 3, 0]), Moves::Out(3072));
        assert_eq!(moves(&[0x13, 1, 0, 0, 3, 0]), Moves::Nothing);
        assert_eq!(moves(&[0x13, 2, 0, 0, 3, 0]), Moves::Out(3));
        assert_eq!(moves(&[0x34, 8, 0, 0, 0, 0, 0, 0, 32, 0]), Moves::In(32));
        assert_eq!(moves(&[0x34, 6, 0, 0, 0, 0, 0, 0, 0, 0]), Moves::In(32));
    }

    #[test]
    fn what_a_command_moves() {
        let moves = |bytes: &[u8]| {
            let cdb = Cdb::new(bytes);
            DISK.iter().find(|opcode| opcode.is(&cdb)).unwrap().moves(&cdb, 512)
        };
        assert_eq!(moves(&[0x08, 0, 0, 0, 0, 0]), Moves::In(256 * 512));
        assert_eq!(moves(&[0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Moves::In(0));
        assert_eq!(moves(&[0x2f, 0, 0, 0, 0, 0, 0, 0, 9, 0]), Moves::Nothing);
        assert_eq!(moves(&[0x2f, 2, 0, 0, 0, 0, 0, 0, 9, 0]), Moves::Out(9 * 512));
        assert_eq!(moves(&[0x2f, 6, 0, 0, 0, 0, 0, 0, 9, 0]), Moves::Out(512));
        assert_eq!(moves(&[0x93, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0]), Moves::Nothing);
        assert_eq!(moves(&[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0]), Moves::Out(6 * 512));
        assert_eq!(moves(&[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, X, X, X, X, 0, 0]), Moves::In(0xffff_ffff * 512));
    }
}
