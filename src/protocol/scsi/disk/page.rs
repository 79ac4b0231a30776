//! The pages of disks: vital product data B0h to B2h (SBC-3 §6.6), mode pages 01h, 08h and 1Ch (§6.5, SPC-4 §7.5).

use super::{COMPARE_BLOCKS_MAX, Disk, Ordering, SAME_BYTES_MAX, TRANSFER_BYTES_MAX, UNMAP_DESCRIPTORS_MAX};
use crate::protocol::scsi::Failure;
use crate::protocol::scsi::mode::{Header, Page};

const RECOVERY: u8 = 0x01;
const CACHING: u8 = 0x08;
const EXCEPTIONS: u8 = 0x1c;
/// WCE, in byte 0 of the caching page's body.
const WCE: u8 = 0x04;

impl Disk {
    pub(super) fn pages_of_blocks(&self) -> Vec<(u8, Vec<u8>)> {
        vec![(0xb0, self.limits()), (0xb1, characteristics()), (0xb2, provisioning())]
    }

    /// Block limits.
    fn limits(&self) -> Vec<u8> {
        let geometry = self.device.geometry();
        let block_bytes = u64::from(geometry.block_bytes);
        let granularity = geometry.physical_block_bytes / geometry.block_bytes;
        let blocks = |bytes: u64| u32::try_from(bytes / block_bytes).unwrap_or(u32::MAX);
        let atomic = blocks(geometry.atomic_bytes_max.into());
        let mut body = vec![0; 60];
        let mut put = |at: usize, value: u32| body[at - 4..at].copy_from_slice(&value.to_be_bytes());
        put(8, blocks(TRANSFER_BYTES_MAX));
        put(12, blocks(1 << 20));
        // No limit.
        put(20, u32::MAX);
        put(24, UNMAP_DESCRIPTORS_MAX as u32);
        put(28, granularity);
        // UGAVALID, alignment 0.
        put(32, 1 << 31);
        put(44, atomic);
        // WSNZ.
        body[0] = 1;
        body[1] = COMPARE_BLOCKS_MAX as u8;
        body[2..4].copy_from_slice(&(granularity as u16).to_be_bytes());
        body[32..40].copy_from_slice(&(SAME_BYTES_MAX / block_bytes).to_be_bytes());
        body
    }

    pub(super) fn header_of_modes(&self, long: bool) -> Header {
        let geometry = self.device.geometry();
        let is_protected = self.device.is_read_only() || self.is_protected.load(Ordering::Relaxed);
        // WP, DPOFUA.
        let device = u8::from(is_protected) << 7 | 0x10;
        let descriptor = if long {
            [&geometry.blocks.to_be_bytes()[..], &[0; 4], &geometry.block_bytes.to_be_bytes()].concat()
        } else {
            let blocks = u32::try_from(geometry.blocks).unwrap_or(u32::MAX);
            [blocks.to_be_bytes(), geometry.block_bytes.to_be_bytes()].concat()
        };
        Header { medium: 0, device, descriptor }
    }

    pub(super) fn pages_of_modes(&self) -> Vec<Page> {
        let caching = |wce: bool| {
            let mut body = vec![0; 18];
            body[0] = if wce { WCE } else { 0 };
            body
        };
        let mut changeable = vec![0; 18];
        changeable[0] = WCE;
        // AWRE.
        let recovery = vec![0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        vec![
            Page { code: RECOVERY, changeable: vec![0; 10], default: recovery.clone(), body: recovery },
            Page { code: CACHING, body: caching(self.device.has_write_cache()), changeable, default: caching(true) },
            Page { code: EXCEPTIONS, body: vec![0; 10], changeable: vec![0; 10], default: vec![0; 10] },
        ]
    }

    pub(super) async fn take_mode_page(&self, page: &Page) -> Result<(), Failure> {
        if page.code == CACHING {
            self.device.set_write_cache(page.body[0] & WCE != 0).await.map_err(|error| self.failure(&error))?;
        }
        Ok(())
    }
}

/// Block device characteristics: it does not rotate.
fn characteristics() -> Vec<u8> {
    let mut body = vec![0; 60];
    body[..2].copy_from_slice(&[0, 1]);
    body
}

/// Logical block provisioning: thin; UNMAP and both forms of WRITE SAME unmap; unmapped blocks read as zeroes.
fn provisioning() -> Vec<u8> {
    vec![0, 0x80 | 0x40 | 0x20 | 0x04, 0x02, 0]
}
