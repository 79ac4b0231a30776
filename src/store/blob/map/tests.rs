//! The map against a model with one cell per byte.

use proptest::prelude::*;

use super::*;

/// What a cell of the model says: number, record, byte in the record (`None`: a hole).
type Cell = Option<(u64, Option<(u32, u64)>)>;

const SPAN: u64 = 64;

#[derive(Clone, Debug)]
enum Step {
    Insert { offset: u64, len: u64, seq: u64, hole: bool },
    Remove { offset: u64, len: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..SPAN, 1..24u64, 1..40u64, any::<bool>()).prop_map(|(offset, len, seq, hole)| Step::Insert {
            offset,
            len: len.min(SPAN - offset),
            seq,
            hole
        }),
        1 => (0..SPAN, 0..24u64).prop_map(|(offset, len)| Step::Remove { offset, len: len.min(SPAN - offset) }),
    ]
}

fn location(record: u32) -> Location {
    Location { slot: 1, life: 2, offset_bytes: record }
}

fn cells(map: &ExtentMap) -> Vec<Cell> {
    let mut cells = vec![None; SPAN as usize];
    for extent in map.iter() {
        for byte in extent.range() {
            assert!(cells[byte as usize].is_none(), "extents overlap");
            cells[byte as usize] = Some((extent.seq.0, byte_place(extent, byte)));
        }
    }
    cells
}

fn byte_place(extent: &Extent, byte: u64) -> Option<(u32, u64)> {
    match extent.place {
        Place::Log { location, skip_bytes } => Some((location.offset_bytes, u64::from(skip_bytes) + byte - extent.offset)),
        Place::Hole => None,
    }
}

proptest! {
    #[test]
    fn agrees_with_a_cell_per_byte(steps in proptest::collection::vec(step(), 1..60)) {
        let mut map = ExtentMap::default();
        let mut model: Vec<Cell> = vec![None; SPAN as usize];
        for (index, step) in steps.into_iter().enumerate() {
            match step {
                Step::Insert { offset, len, seq, hole } => {
                    let record = index as u32;
                    let place = if hole { Place::Hole } else { Place::Log { location: location(record), skip_bytes: 0 } };
                    let new = Extent { offset, len, seq: Seq(seq), place };
                    let mut lost = 0;
                    for byte in new.range() {
                        let cell = &mut model[byte as usize];
                        if cell.is_none_or(|(old, _)| old <= seq) {
                            lost += u64::from(cell.is_some());
                            *cell = Some((seq, byte_place(&new, byte)));
                        }
                    }
                    let displaced = map.insert(new);
                    prop_assert_eq!(displaced.iter().map(|piece| piece.len).sum::<u64>(), lost);
                }
                Step::Remove { offset, len } => {
                    let removed: u64 = map.remove(&(offset..offset + len)).iter().map(|piece| piece.len).sum();
                    let cells = &mut model[offset as usize..(offset + len) as usize];
                    prop_assert_eq!(removed, cells.iter().filter(|cell| cell.is_some()).count() as u64);
                    cells.fill(None);
                }
            }
            prop_assert_eq!(&cells(&map), &model);
            for pair in map.extents.windows(2) {
                prop_assert!(pair[0].end() <= pair[1].offset && !pair[0].continues(&pair[1]));
            }
        }
    }

    #[test]
    fn pieces_cover_a_range_without_overlap(
        steps in proptest::collection::vec((0..SPAN, 1..16u64, 1..9u64), 0..12),
        start in 0..SPAN,
        len in 0..SPAN,
    ) {
        let map: ExtentMap = steps
            .into_iter()
            .map(|(offset, len, seq)| Extent { offset, len: len.min(SPAN - offset), seq: Seq(seq), place: Place::Hole })
            .collect();
        let covered = cells(&map);
        let mut at = start;
        for piece in map.pieces(start..start + len) {
            let (from, to, is_gap) = match piece {
                Piece::Extent(extent) => (extent.offset, extent.end(), false),
                Piece::Gap(from, to) => (from, to, true),
            };
            prop_assert_eq!(from, at);
            prop_assert!(to > from);
            for byte in from..to.min(SPAN) {
                prop_assert_eq!(covered[byte as usize].is_none(), is_gap);
            }
            at = to;
        }
        prop_assert_eq!(at, start + len);
    }

    #[test]
    fn the_order_of_insertions_does_not_matter(
        mut extents in proptest::collection::vec((0..SPAN, 1..16u64), 1..12),
        rotate in 0..12usize,
    ) {
        let numbered = |list: &[(u64, u64)]| -> Vec<Extent> {
            list.iter()
                .enumerate()
                .map(|(index, &(offset, len))| Extent {
                    offset,
                    len: len.min(SPAN - offset),
                    seq: Seq(index as u64 + 1),
                    place: Place::Log { location: location(index as u32), skip_bytes: 0 },
                })
                .collect()
        };
        extents.dedup();
        let mut shuffled = numbered(&extents);
        let straight: ExtentMap = shuffled.clone().into_iter().collect();
        let middle = rotate % shuffled.len();
        shuffled.rotate_left(middle);
        shuffled.reverse();
        prop_assert_eq!(straight, shuffled.into_iter().collect::<ExtentMap>());
    }
}
