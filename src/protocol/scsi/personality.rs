//! What tape drives and changers of others call themselves, as data: backup software knows devices by their names.
//!
//! Invariant: a personality changes names and figures, never what a command does.

/// A format of tape, as REPORT DENSITY SUPPORT has it (SSC-4 §7.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Density {
    /// DENSITY CODE.
    pub code: u8,
    /// MEDIUM TYPE in the header of mode parameters.
    pub medium: u8,
    /// BITS PER MM.
    pub bits_per_mm: u32,
    /// TRACKS.
    pub tracks: u16,
    /// CAPACITY of a cartridge as it is sold, in 10^6 bytes.
    pub capacity_mb: u32,
    /// DENSITY NAME, at most 8 characters.
    pub name: &'static str,
    /// DESCRIPTION, at most 20 characters.
    pub description: &'static str,
}

/// The width of an Ultrium tape, in tenths of a millimetre.
pub(super) const WIDTH: u16 = 127;
/// ASSIGNING ORGANIZATION of the Ultrium formats.
pub(super) const ORGANIZATION: &str = "LTO-CVE";

const fn density(
    code: u8,
    bits_per_mm: u32,
    tracks: u16,
    capacity_mb: u32,
    name: &'static str,
    description: &'static str,
) -> Density {
    // The medium type of generation n is n8h, the density code of generation 5 is 58h, and grows by two.
    Density { code, medium: (code - 0x58) / 2 * 0x10 + 0x58, bits_per_mm, tracks, capacity_mb, name, description }
}

const LTO5: Density = density(0x58, 15_142, 1280, 1_500_000, "U-516", "Ultrium 5/16T");
const LTO6: Density = density(0x5a, 15_143, 2176, 2_500_000, "U-616", "Ultrium 6/16T");
const LTO7: Density = density(0x5c, 19_107, 3584, 6_000_000, "U-732", "Ultrium 7/32T");
const LTO8: Density = density(0x5e, 20_668, 6656, 12_000_000, "U-832", "Ultrium 8/32T");
const LTO9: Density = density(0x60, 21_457, 8960, 18_000_000, "U-932", "Ultrium 9/32T");

/// A model of tape drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriveModel {
    /// T10 VENDOR IDENTIFICATION.
    pub vendor: &'static str,
    /// PRODUCT IDENTIFICATION.
    pub product: &'static str,
    /// PRODUCT REVISION LEVEL.
    pub revision: &'static str,
    /// What it writes.
    pub density: Density,
}

/// A model of changers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangerModel {
    /// What AWS calls it.
    pub name: &'static str,
    /// T10 VENDOR IDENTIFICATION.
    pub vendor: &'static str,
    /// PRODUCT IDENTIFICATION.
    pub product: &'static str,
    /// PRODUCT REVISION LEVEL.
    pub revision: &'static str,
}

const fn drive(vendor: &'static str, product: &'static str, revision: &'static str, density: Density) -> DriveModel {
    DriveModel { vendor, product, revision, density }
}

impl DriveModel {
    /// All that are known; the first is what AWS has.
    pub const ALL: &'static [Self] = &[
        drive("IBM", "ULT3580-TD5", "D2AD", LTO5),
        drive("IBM", "ULT3580-TD6", "G9P1", LTO6),
        drive("IBM", "ULT3580-TD7", "G9Q1", LTO7),
        drive("IBM", "ULT3580-TD8", "J4D1", LTO8),
        drive("IBM", "ULT3580-TD9", "N9L1", LTO9),
        drive("HP", "Ultrium 5-SCSI", "Z61W", LTO5),
        drive("HP", "Ultrium 6-SCSI", "J5SW", LTO6),
    ];

    /// The model of a product.
    pub fn find(product: &str) -> Option<&'static Self> {
        Self::ALL.iter().find(|model| model.product == product)
    }
}

impl ChangerModel {
    /// All that are known; the first is what AWS has.
    pub const ALL: &'static [Self] = &[
        Self { name: "AWS-Gateway-VTL", vendor: "AWS", product: "Gateway-VTL", revision: "0104" },
        Self { name: "STK-L700", vendor: "STK", product: "L700", revision: "0104" },
        Self { name: "IBM-03584L32-0402", vendor: "IBM", product: "03584L32", revision: "0402" },
    ];

    /// The model that AWS calls so.
    pub fn find(name: &str) -> Option<&'static Self> {
        Self::ALL.iter().find(|model| model.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_their_fields_and_generations_their_codes() {
        for model in DriveModel::ALL {
            assert!(model.vendor.len() <= 8 && model.product.len() <= 16 && model.revision.len() == 4);
            assert!(model.density.name.len() <= 8 && model.density.description.len() <= 20);
        }
        let codes = |product: &str| DriveModel::find(product).map(|model| (model.density.code, model.density.medium));
        assert_eq!(codes("ULT3580-TD5"), Some((0x58, 0x58)));
        assert_eq!(codes("ULT3580-TD9"), Some((0x60, 0x98)));
        assert_eq!(codes("ULT3580-TD4"), None);
        for model in ChangerModel::ALL {
            assert!(model.vendor.len() <= 8 && model.product.len() <= 16 && model.revision.len() == 4);
            assert_eq!(ChangerModel::find(model.name), Some(model));
        }
    }
}
