//! Sense data (SPC-4 §4.5): why a command was not carried out. The conditions bear the standard's names (SPC-4 annex F.2).

/// What kind of failure it is (SPC-4 table 55).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Key {
    /// Nothing happened.
    NoSense = 0x0,
    /// The unit cannot be used now.
    NotReady = 0x2,
    /// Bytes are lost.
    MediumError = 0x3,
    /// The device failed.
    HardwareError = 0x4,
    /// The command is wrong.
    IllegalRequest = 0x5,
    /// Something happened that the initiator has to know of first.
    UnitAttention = 0x6,
    /// What is asked for is forbidden.
    DataProtect = 0x7,
    /// A tape has nothing more.
    BlankCheck = 0x8,
    /// A copy did not come to its end.
    CopyAborted = 0xa,
    /// The target gave the command up.
    AbortedCommand = 0xb,
    /// What was to be written does not fit any more.
    VolumeOverflow = 0xd,
    /// What is there is not what was said.
    Miscompare = 0xe,
}

/// A sense key with its additional sense code and qualifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The sense key.
    pub key: Key,
    /// ADDITIONAL SENSE CODE.
    pub asc: u8,
    /// ADDITIONAL SENSE CODE QUALIFIER.
    pub ascq: u8,
}

macro_rules! conditions {
    ($($key:ident $asc:literal $ascq:literal $name:ident;)*) => {
        /// The conditions that are used here.
        impl Condition {
            $(#[doc = concat!(stringify!($asc), "/", stringify!($ascq))]
            pub const $name: Self = Self { key: Key::$key, asc: $asc, ascq: $ascq };)*
        }
    };
}

conditions! {
    NoSense 0x00 0x00 NO_ADDITIONAL_SENSE_INFORMATION;
    NoSense 0x00 0x01 FILEMARK_DETECTED;
    NoSense 0x00 0x02 END_OF_PARTITION_MEDIUM_NEAR;
    VolumeOverflow 0x00 0x02 END_OF_PARTITION_MEDIUM_DETECTED;
    NoSense 0x00 0x04 BEGINNING_OF_PARTITION_MEDIUM_DETECTED;
    BlankCheck 0x00 0x05 END_OF_DATA_DETECTED;
    NotReady 0x04 0x00 LOGICAL_UNIT_NOT_READY_CAUSE_NOT_REPORTABLE;
    NotReady 0x04 0x02 LOGICAL_UNIT_NOT_READY_INITIALIZING_COMMAND_REQUIRED;
    HardwareError 0x08 0x00 LOGICAL_UNIT_COMMUNICATION_FAILURE;
    CopyAborted 0x08 0x04 UNREACHABLE_COPY_TARGET;
    MediumError 0x0c 0x00 WRITE_ERROR;
    AbortedCommand 0x0c 0x0c WRITE_ERROR_UNEXPECTED_UNSOLICITED_DATA;
    CopyAborted 0x0d 0x02 COPY_TARGET_DEVICE_NOT_REACHABLE;
    MediumError 0x11 0x00 UNRECOVERED_READ_ERROR;
    IllegalRequest 0x1a 0x00 PARAMETER_LIST_LENGTH_ERROR;
    Miscompare 0x1d 0x00 MISCOMPARE_DURING_VERIFY_OPERATION;
    IllegalRequest 0x20 0x00 INVALID_COMMAND_OPERATION_CODE;
    IllegalRequest 0x21 0x00 LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE;
    IllegalRequest 0x21 0x01 INVALID_ELEMENT_ADDRESS;
    IllegalRequest 0x24 0x00 INVALID_FIELD_IN_CDB;
    IllegalRequest 0x25 0x00 LOGICAL_UNIT_NOT_SUPPORTED;
    IllegalRequest 0x26 0x00 INVALID_FIELD_IN_PARAMETER_LIST;
    IllegalRequest 0x26 0x04 INVALID_RELEASE_OF_PERSISTENT_RESERVATION;
    IllegalRequest 0x26 0x06 TOO_MANY_TARGET_DESCRIPTORS;
    IllegalRequest 0x26 0x07 UNSUPPORTED_TARGET_DESCRIPTOR_TYPE_CODE;
    IllegalRequest 0x26 0x08 TOO_MANY_SEGMENT_DESCRIPTORS;
    IllegalRequest 0x26 0x09 UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE_CODE;
    DataProtect 0x27 0x00 WRITE_PROTECTED;
    DataProtect 0x27 0x02 LOGICAL_UNIT_SOFTWARE_WRITE_PROTECTED;
    DataProtect 0x27 0x07 SPACE_ALLOCATION_FAILED_WRITE_PROTECT;
    UnitAttention 0x28 0x00 NOT_READY_TO_READY_CHANGE_MEDIUM_MAY_HAVE_CHANGED;
    UnitAttention 0x28 0x01 IMPORT_OR_EXPORT_ELEMENT_ACCESSED;
    UnitAttention 0x29 0x00 POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED;
    UnitAttention 0x29 0x03 BUS_DEVICE_RESET_FUNCTION_OCCURRED;
    UnitAttention 0x29 0x07 I_T_NEXUS_LOSS_OCCURRED;
    UnitAttention 0x2a 0x01 MODE_PARAMETERS_CHANGED;
    UnitAttention 0x2a 0x03 RESERVATIONS_PREEMPTED;
    UnitAttention 0x2a 0x04 RESERVATIONS_RELEASED;
    UnitAttention 0x2a 0x05 REGISTRATIONS_PREEMPTED;
    UnitAttention 0x2a 0x09 CAPACITY_DATA_HAS_CHANGED;
    IllegalRequest 0x2c 0x00 COMMAND_SEQUENCE_ERROR;
    UnitAttention 0x2f 0x00 COMMANDS_CLEARED_BY_ANOTHER_INITIATOR;
    DataProtect 0x30 0x0c WORM_MEDIUM_OVERWRITE_ATTEMPTED;
    IllegalRequest 0x39 0x00 SAVING_PARAMETERS_NOT_SUPPORTED;
    NotReady 0x3a 0x00 MEDIUM_NOT_PRESENT;
    MediumError 0x3b 0x00 SEQUENTIAL_POSITIONING_ERROR;
    IllegalRequest 0x3b 0x0c POSITION_PAST_BEGINNING_OF_MEDIUM;
    IllegalRequest 0x3b 0x0d MEDIUM_DESTINATION_ELEMENT_FULL;
    IllegalRequest 0x3b 0x0e MEDIUM_SOURCE_ELEMENT_EMPTY;
    UnitAttention 0x3f 0x0e REPORTED_LUNS_DATA_HAS_CHANGED;
    HardwareError 0x44 0x00 INTERNAL_TARGET_FAILURE;
    AbortedCommand 0x47 0x05 PROTOCOL_SERVICE_CRC_ERROR;
    IllegalRequest 0x53 0x02 MEDIUM_REMOVAL_PREVENTED;
    IllegalRequest 0x55 0x04 INSUFFICIENT_REGISTRATION_RESOURCES;
}

/// The byte (and bit) that was wrong, in the CDB or in the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    is_in_cdb: bool,
    byte: u16,
    bit: Option<u8>,
}

/// What a tape met, beside the condition (SPC-4 §4.5.2.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// FILEMARK.
    pub is_filemark: bool,
    /// EOM: an end of the medium, or the warning before it.
    pub is_end: bool,
    /// ILI: a record of another length than was asked for.
    pub is_wrong_length: bool,
}

impl Stream {
    fn bits(self) -> u8 {
        u8::from(self.is_filemark) << 7 | u8::from(self.is_end) << 6 | u8::from(self.is_wrong_length) << 5
    }
}

/// A condition with what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sense {
    /// What it is.
    pub condition: Condition,
    /// INFORMATION: a block address, an offset, a residue; as two's complement where it is negative.
    pub information: Option<u64>,
    /// What a tape met.
    pub stream: Option<Stream>,
    field: Option<Field>,
}

impl From<Condition> for Sense {
    fn from(condition: Condition) -> Self {
        Self { condition, information: None, stream: None, field: None }
    }
}

impl Sense {
    /// With the INFORMATION field.
    #[must_use]
    pub fn informed(self, information: u64) -> Self {
        Self { information: Some(information), ..self }
    }

    /// With what a tape met.
    #[must_use]
    pub fn met(self, stream: Stream) -> Self {
        Self { stream: Some(stream), ..self }
    }

    /// INVALID FIELD IN CDB, with the byte.
    pub fn invalid_cdb(byte: u16) -> Self {
        let field = Some(Field { is_in_cdb: true, byte, bit: None });
        Self { field, ..Condition::INVALID_FIELD_IN_CDB.into() }
    }

    /// INVALID FIELD IN CDB, with byte and bit.
    pub fn invalid_cdb_bit(byte: u16, bit: u8) -> Self {
        let field = Some(Field { is_in_cdb: true, byte, bit: Some(bit) });
        Self { field, ..Condition::INVALID_FIELD_IN_CDB.into() }
    }

    /// INVALID FIELD IN PARAMETER LIST, with the byte.
    pub fn invalid_parameter(byte: u16) -> Self {
        let field = Some(Field { is_in_cdb: false, byte, bit: None });
        Self { field, ..Condition::INVALID_FIELD_IN_PARAMETER_LIST.into() }
    }

    /// The sense-key specific bytes (SPC-4 §4.5.2.4.2).
    fn specific(&self) -> Option<[u8; 3]> {
        let field = self.field?;
        let in_cdb = if field.is_in_cdb { 0x40 } else { 0 };
        let bit = field.bit.map_or(0, |bit| 0x08 | bit & 7);
        let [high, low] = field.byte.to_be_bytes();
        Some([0x80 | in_cdb | bit, high, low])
    }

    /// INFORMATION where it fits 32 bits: a small number, or a small negative one.
    fn short_information(&self) -> Option<u32> {
        let information = self.information?;
        let negative = i32::try_from(information as i64).ok().filter(|number| *number < 0);
        u32::try_from(information).ok().or(negative.map(|number| number as u32))
    }

    /// Fixed format (SPC-4 §4.5.3). Information beyond 32 bits does not fit and is left out.
    pub fn fixed(&self) -> Vec<u8> {
        let mut bytes = vec![0; 18];
        bytes[0] = 0x70;
        bytes[2] = self.condition.key as u8 | self.stream.unwrap_or_default().bits();
        bytes[7] = 10;
        bytes[12] = self.condition.asc;
        bytes[13] = self.condition.ascq;
        if let Some(information) = self.short_information() {
            bytes[0] |= 0x80;
            bytes[3..7].copy_from_slice(&information.to_be_bytes());
        }
        if let Some(specific) = self.specific() {
            bytes[15..18].copy_from_slice(&specific);
        }
        bytes
    }

    /// Descriptor format (SPC-4 §4.5.2).
    pub fn descriptors(&self) -> Vec<u8> {
        let mut bytes = vec![0x72, self.condition.key as u8, self.condition.asc, self.condition.ascq, 0, 0, 0, 0];
        if let Some(information) = self.information {
            bytes.extend([0x00, 0x0a, 0x80, 0x00]);
            bytes.extend(information.to_be_bytes());
        }
        if let Some(specific) = self.specific() {
            bytes.extend([0x02, 0x06, 0x00, 0x00]);
            bytes.extend(specific);
            bytes.push(0);
        }
        if let Some(stream) = self.stream {
            bytes.extend([0x04, 0x02, 0x00, stream.bits()]);
        }
        bytes[7] = (bytes.len() - 8) as u8;
        bytes
    }

    /// As the control mode page's D_SENSE says.
    pub fn bytes(&self, as_descriptors: bool) -> Vec<u8> {
        if as_descriptors { self.descriptors() } else { self.fixed() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_say_the_same() {
        let sense = Sense::from(Condition::MISCOMPARE_DURING_VERIFY_OPERATION).informed(0x1234);
        assert_eq!(sense.fixed(), [0xf0, 0, 0x0e, 0, 0, 0x12, 0x34, 10, 0, 0, 0, 0, 0x1d, 0, 0, 0, 0, 0]);
        let descriptors = [0x72, 0x0e, 0x1d, 0, 0, 0, 0, 12, 0, 10, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34];
        assert_eq!(sense.descriptors(), descriptors);
        let field = Sense::invalid_cdb_bit(1, 5);
        assert_eq!(field.fixed()[12..], [0x24, 0, 0, 0xcd, 0, 1]);
        assert_eq!(field.descriptors()[8..], [2, 6, 0, 0, 0xcd, 0, 1, 0]);
        assert_eq!(Sense::invalid_parameter(0x102).fixed()[15..], [0x80, 1, 2]);
    }

    #[test]
    fn what_a_tape_met_and_residues_of_either_sign() {
        let stream = Stream { is_wrong_length: true, ..Stream::default() };
        let sense = Sense::from(Condition::NO_ADDITIONAL_SENSE_INFORMATION).informed(-5_i64 as u64).met(stream);
        assert_eq!(sense.fixed()[..8], [0xf0, 0, 0x20, 0xff, 0xff, 0xff, 0xfb, 10]);
        let descriptors = sense.descriptors();
        assert_eq!((descriptors[7], &descriptors[12..20]), (16, &(-5_i64).to_be_bytes()[..]));
        assert_eq!(descriptors[20..], [4, 2, 0, 0x20]);
        let both = Stream { is_filemark: true, is_end: true, ..Stream::default() };
        assert_eq!(Sense::from(Condition::FILEMARK_DETECTED).met(both).fixed()[2], 0xc0);
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let sense = Sense::from(Condition::UNRECOVERED_READ_ERROR).informed(1 << 40);
        assert_eq!(sense.fixed()[..7], [0x70, 0, 3, 0, 0, 0, 0]);
        assert_eq!(sense.descriptors()[12..], (1_u64 << 40).to_be_bytes());
    }
}
