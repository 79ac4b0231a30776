//! SEND VOLUME TAG and REQUEST VOLUME ELEMENT ADDRESS (SMC-3 §6.14, §6.12): where is the cartridge with this barcode?
//!
//! Invariants: a search belongs to the nexus that asked; [`SEARCHES_MAX`] are remembered. Barcodes are read off the cartridges: none is set.

use bytes::Bytes;

use super::elements::{Detail, kind_of};
use super::{Cdb, Changer, Condition, Failure, Sense};
use crate::engine::tape::Element;
use crate::protocol::scsi::Answer;

/// Searches that are remembered.
const SEARCHES_MAX: usize = 64;
/// Bytes of the parameter list.
const LIST_BYTES: usize = 40;

/// What initiators searched for: nexus, action, what was found.
#[derive(Debug, Default)]
pub(super) struct Searches(Vec<(u64, u8, Vec<Element>)>);

impl Changer {
    /// SEND VOLUME TAG. The actions that translate are served, of all tags or the primary ones, with sequence numbers or without.
    pub(super) fn send_volume_tag(&self, nexus: u64, cdb: &Cdb, data: &Bytes) -> Result<Answer, Failure> {
        let (kind, first, action) = (kind_of(cdb.byte(1) & 0x0f)?, cdb.number(2, 2) as u16, cdb.byte(5) & 0x1f);
        if ![0, 1, 4, 5].contains(&action) {
            return Err(Sense::invalid_cdb_bit(5, 4).into());
        }
        let list = data.get(..LIST_BYTES).filter(|_| cdb.length(8, 2) == LIST_BYTES);
        let template = template(list.ok_or(Condition::PARAMETER_LIST_LENGTH_ERROR)?);
        let elements = self.library.elements(kind, first, usize::MAX);
        let fits = |element: &Element| element.barcode.as_ref().is_some_and(|tag| is_like(tag.as_str().as_bytes(), template));
        let found: Vec<_> = elements.into_iter().filter(fits).collect();
        let mut searches = self.searches.lock();
        searches.0.retain(|(of, ..)| *of != nexus);
        if searches.0.len() >= SEARCHES_MAX {
            searches.0.remove(0);
        }
        searches.0.push((nexus, action, found));
        Ok(Answer::none())
    }

    /// REQUEST VOLUME ELEMENT ADDRESS: what the search before it found.
    pub(super) fn volume_address(&self, nexus: u64, cdb: &Cdb) -> Result<Answer, Failure> {
        let (kind, first, count) = (kind_of(cdb.byte(1) & 0x0f)?, cdb.number(2, 2) as u16, cdb.number(4, 2) as usize);
        let searches = self.searches.lock();
        let search = searches.0.iter().find(|(of, ..)| *of == nexus).ok_or(Condition::COMMAND_SEQUENCE_ERROR)?;
        let (_, action, found) = search;
        let meant = |element: &&Element| element.address >= first && kind.is_none_or(|kind| kind == element.kind);
        let elements: Vec<_> = found.iter().filter(meant).take(count).cloned().collect();
        let detail = Detail { has_tags: cdb.bit(1, 4), has_names: false };
        Ok(self.report(&elements, detail, *action, cdb.length(7, 3)))
    }
}

/// The volume identification template: 32 characters, padded with blanks or zeroes.
fn template(list: &[u8]) -> &[u8] {
    let text = &list[..32];
    let len = text.iter().rposition(|byte| !matches!(byte, b' ' | 0)).map_or(0, |last| last + 1);
    &text[..len]
}

/// `?` is any character, `*` any rest (§6.14.2).
fn is_like(tag: &[u8], template: &[u8]) -> bool {
    match (tag, template) {
        (_, [b'*', ..]) => true,
        ([_, tag @ ..], [b'?', template @ ..]) => is_like(tag, template),
        ([one, tag @ ..], [other, template @ ..]) => one == other && is_like(tag, template),
        (tag, template) => tag.is_empty() && template.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_have_wildcards() {
        for (template, is) in
            [("TST001L5", true), ("TST*", true), ("*", true), ("TST00?L5", true), ("TST001L", false), ("TST001L5?", false)]
        {
            assert_eq!(is_like(b"TST001L5", template.as_bytes()), is, "{template}");
        }
        assert!(!is_like(b"TST001L5", b""));
        let mut list = [b' '; 40];
        list[..3].copy_from_slice(b"AB*");
        assert_eq!(template(&list), b"AB*");
        assert_eq!(template(&[0; 40]), b"");
    }
}
