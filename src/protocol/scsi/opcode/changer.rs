//! The commands of changers (SMC-3 §6).
//!
//! INVERT is in no usage: a reel in S3 has one side.

use super::Data::{self, In, Out};
use super::{Free, Opcode, V, Writes, X, row};

/// See the module.
pub static CHANGER: &[Opcode] = &[
    row("INITIALIZE ELEMENT STATUS", V::InitializeElements, Data::None, Writes, &[0x07, 0, 0, 0, 0, 0]),
    row("OPEN/CLOSE IMPORT/EXPORT ELEMENT", V::OpenClose, Data::None, Writes, &[0x1b, 0, X, X, 0x1f, 0]),
    row("PREVENT ALLOW MEDIUM REMOVAL", V::PreventRemoval, Data::None, Free, &[0x1e, 0, 0, 0, 3, 0]),
    row("POSITION TO ELEMENT", V::PositionToElement, Data::None, Writes, &[0x2b, 0, X, X, X, X, 0, 0, 0, 0]),
    row("INITIALIZE ELEMENT STATUS WITH RANGE", V::InitializeElements, Data::None, Writes, &[0x37, 3, X, X, 0, 0, X, X, 0, 0]),
    row("LOG SELECT", V::LogSelect, Out((7, 2)), Writes, &[0x4c, 0x02, X, X, 0, 0, 0, X, X, 0]),
    row("LOG SENSE", V::LogSense, In((7, 2)), Free, &[0x4d, 0, X, X, 0, X, X, X, X, 0]),
    row("MOVE MEDIUM", V::MoveMedium, Data::None, Writes, &[0xa5, 0, X, X, X, X, X, X, 0, 0, 0, 0]),
    row("EXCHANGE MEDIUM", V::ExchangeMedium, Data::None, Writes, &[0xa6, 0, X, X, X, X, X, X, X, X, 0, 0]),
    row("REQUEST VOLUME ELEMENT ADDRESS", V::VolumeAddress, In((7, 3)), Free, &[0xb5, 0x1f, X, X, X, X, 0, X, X, X, 0, 0]),
    row("SEND VOLUME TAG", V::SendVolumeTag, Out((8, 2)), Writes, &[0xb6, 0x0f, X, X, 0, 0x1f, 0, 0, X, X, 0, 0]),
    row("READ ELEMENT STATUS", V::ElementStatus, In((7, 3)), Writes, &[0xb8, 0x1f, X, X, X, X, 3, X, X, X, 0, 0]),
];
