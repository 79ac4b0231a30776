//! The commands of tape drives (SSC-4 §6, §7; those of SPC-4 that only they serve).
//!
//! What moves the head, or depends on where it stands, is not for others while the drive is reserved: SSC-4 table 14.

use super::Data::{self, Fixed, In, Out, RecordsCompared, RecordsIn, RecordsOut};
use super::{Free, Opcode, V, Writes, X, act, row};

/// See the module.
pub static STREAM: &[Opcode] = &[
    row("REWIND", V::Rewind, Data::None, Writes, &[0x01, 1, 0, 0, 0, 0]),
    row("FORMAT MEDIUM", V::Format, Out((3, 2)), Writes, &[0x04, 0x03, 0x0f, X, X, 0]),
    row("READ BLOCK LIMITS", V::BlockLimits, Fixed(6), Free, &[0x05, 0, 0, 0, 0, 0]),
    row("READ(6)", V::Read, RecordsIn((2, 3)), Writes, &[0x08, 0x03, X, X, X, 0]),
    row("WRITE(6)", V::Write, RecordsOut((2, 3)), Writes, &[0x0a, 0x01, X, X, X, 0]),
    row("WRITE FILEMARKS(6)", V::WriteFilemarks, Data::None, Writes, &[0x10, 0x01, X, X, X, 0]),
    row("SPACE(6)", V::Space, Data::None, Writes, &[0x11, 0x0f, X, X, X, 0]),
    row("VERIFY(6)", V::Verify, RecordsCompared((2, 3)), Writes, &[0x13, 0x07, X, X, X, 0]),
    row("ERASE(6)", V::Erase, Data::None, Writes, &[0x19, 0x03, 0, 0, 0, 0]),
    row("LOAD UNLOAD", V::Load, Data::None, Writes, &[0x1b, 0x01, 0, 0, 0x0f, 0]),
    row("PREVENT ALLOW MEDIUM REMOVAL", V::PreventRemoval, Data::None, Free, &[0x1e, 0, 0, 0, 3, 0]),
    row("LOCATE(10)", V::Locate, Data::None, Writes, &[0x2b, 0x07, 0, X, X, X, X, 0, X, 0]),
    act("READ POSITION", V::ReadPosition, Fixed(20), Writes, &[0x34, 0x00, 0, 0, 0, 0, 0, 0, 0, 0]),
    act("READ POSITION", V::ReadPosition, Fixed(20), Writes, &[0x34, 0x01, 0, 0, 0, 0, 0, 0, 0, 0]),
    act("READ POSITION", V::ReadPosition, Fixed(32), Writes, &[0x34, 0x06, 0, 0, 0, 0, 0, 0, 0, 0]),
    act("READ POSITION", V::ReadPosition, In((7, 2)), Writes, &[0x34, 0x08, 0, 0, 0, 0, 0, X, X, 0]),
    row("REPORT DENSITY SUPPORT", V::DensitySupport, In((7, 2)), Free, &[0x44, 0x03, 0, 0, 0, 0, 0, X, X, 0]),
    row("LOG SELECT", V::LogSelect, Out((7, 2)), Writes, &[0x4c, 0x02, X, X, 0, 0, 0, X, X, 0]),
    row("LOG SENSE", V::LogSense, In((7, 2)), Free, &[0x4d, 0, X, X, 0, X, X, X, X, 0]),
    act("READ ATTRIBUTE", V::ReadAttribute, In((10, 4)), Writes, &[0x8c, 0x00, 0, 0, 0, X, 0, X, X, X, X, X, X, X, 1, 0]),
    act("READ ATTRIBUTE", V::ReadAttribute, In((10, 4)), Writes, &[0x8c, 0x01, 0, 0, 0, X, 0, X, X, X, X, X, X, X, 1, 0]),
    act("READ ATTRIBUTE", V::ReadAttribute, In((10, 4)), Writes, &[0x8c, 0x02, 0, 0, 0, X, 0, X, X, X, X, X, X, X, 1, 0]),
    act("READ ATTRIBUTE", V::ReadAttribute, In((10, 4)), Writes, &[0x8c, 0x03, 0, 0, 0, X, 0, X, X, X, X, X, X, X, 1, 0]),
    act("READ ATTRIBUTE", V::ReadAttribute, In((10, 4)), Writes, &[0x8c, 0x05, 0, 0, 0, X, 0, X, X, X, X, X, X, X, 1, 0]),
    row("WRITE ATTRIBUTE", V::WriteAttribute, Out((10, 4)), Writes, &[0x8d, 1, 0, 0, 0, X, 0, X, 0, 0, X, X, X, X, 0, 0]),
    row("SPACE(16)", V::Space, Data::None, Writes, &[0x91, 0x0f, 0, 0, X, X, X, X, X, X, X, X, 0, 0, 0, 0]),
    row("LOCATE(16)", V::Locate, Data::None, Writes, &[0x92, 0x3b, 1, X, X, X, X, X, X, X, X, X, 0, 0, 0, 0]),
    row("SECURITY PROTOCOL IN", V::SecurityIn, In((6, 4)), Writes, &[0xa2, X, X, X, 0, 0, X, X, X, X, 0, 0]),
];
