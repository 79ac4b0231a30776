//! A drive against a list: random commands, power losses between them, by seed.

use super::*;
use crate::base::seeds;

/// What the reel is to hold, and what a power loss may leave of it.
struct Model {
    objects: Vec<Option<Vec<u8>>>,
    /// As of the last sync.
    synced: Vec<Option<Vec<u8>>>,
    /// The lowest cut since.
    lowest: usize,
    at: usize,
}

impl Model {
    fn sync(&mut self) {
        self.synced.clone_from(&self.objects);
        self.lowest = self.objects.len();
    }

    fn cut(&mut self) {
        if self.at < self.objects.len() {
            self.objects.truncate(self.at);
            self.lowest = self.lowest.min(self.at);
        }
    }

    /// What SPACE does, one object after the other: the stop, and what is left.
    fn space(&mut self, count: i64, over_marks: bool) -> Result<(), Short> {
        let mut left = count.unsigned_abs();
        while left > 0 {
            let next = if count > 0 { Some(self.at) } else { self.at.checked_sub(1) };
            let Some(next) = next else { return Err(Short { stop: Stop::Beginning, left }) };
            let Some(object) = self.objects.get(next) else { return Err(Short { stop: Stop::EndOfData, left }) };
            self.at = if count > 0 { next + 1 } else { next };
            match object {
                None if over_marks => left -= 1,
                None => return Err(Short { stop: Stop::Filemark, left }),
                Some(_) if over_marks => {}
                Some(_) => left -= 1,
            }
        }
        Ok(())
    }
}

async fn same(head: &mut Head<'_>, model: &Model) {
    for (number, object) in model.objects.iter().enumerate() {
        let found = head.medium().read(number as u64).await.unwrap();
        let expected = object.as_ref().map_or(Object::Filemark, |record| Object::Record(record.clone().into()));
        assert_eq!(found, expected, "object {number}");
    }
    let extent = head.medium().extent();
    let marks = model.objects.iter().filter(|object| object.is_none()).count();
    assert_eq!((extent.objects, extent.filemarks), (model.objects.len() as u64, marks as u64));
}

async fn step(head: &mut Head<'_>, model: &mut Model, random: &mut fastrand::Rng) {
    match random.u8(..20) {
        0..8 => {
            let bytes = vec![random.u8(..); random.usize(1..300)];
            model.cut();
            model.objects.push(Some(bytes.clone()));
            model.at += 1;
            head.write(Object::Record(bytes.into()), random.bool()).await.unwrap();
        }
        8..11 => {
            model.cut();
            model.objects.push(None);
            model.at += 1;
            head.write(Object::Filemark, false).await.unwrap();
            if random.bool() {
                model.sync();
                head.sync().await.unwrap();
            }
        }
        11..13 => {
            let expected = match model.objects.get(model.at) {
                Some(Some(record)) => Ok(record.clone().into()),
                Some(None) => Err(Stop::Filemark),
                None => Err(Stop::EndOfData),
            };
            model.sync();
            model.at = (model.at + 1).min(model.objects.len());
            assert_eq!(head.read().await, expected);
        }
        13..16 => {
            let count = random.i64(-12..12);
            model.sync();
            if random.bool() {
                assert_eq!(head.space_records(count).await, model.space(count, false));
            } else {
                assert_eq!(head.space_filemarks(count).await, model.space(count, true));
            }
        }
        16..18 => {
            let to = random.usize(..=model.objects.len() + 1);
            model.sync();
            model.at = to.min(model.objects.len());
            assert_eq!(head.locate(to as u64).await.is_ok(), to <= model.objects.len());
        }
        18 => {
            model.sync();
            model.at = model.objects.len();
            head.end_of_data().await.unwrap();
        }
        _ => {
            model.cut();
            model.sync();
            head.erase().await.unwrap();
        }
    }
}

/// The power goes; the model learns which of the two reels that may be left it is.
async fn lose_power(reel: &MemoryReel, model: &mut Model, random: &mut fastrand::Rng) -> Arc<Library> {
    let is_back = random.bool();
    reel.lose_power(is_back);
    model.objects = model.synced.clone();
    if !is_back {
        model.objects.truncate(model.lowest.min(model.synced.len()));
    }
    model.at = 0;
    model.sync();
    Library::new(Layout::new(1, 1, 1).unwrap(), "lib", Arc::new(Forgetful))
}

#[test]
fn a_drive_does_what_a_list_does() {
    seeds::worlds(60, 3000, async |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let reel = Arc::new(MemoryReel::new(ID, 64 * MIB, false));
        let mut library = loaded(&reel).await;
        let mut model = Model { objects: Vec::new(), synced: Vec::new(), lowest: 0, at: 0 };
        for _ in 0..random.usize(1..8) {
            let mut head = library.drives()[0].head().await.unwrap();
            if head.position().is_err() {
                head.rewind().await.unwrap();
            }
            for _ in 0..random.usize(..120) {
                step(&mut head, &mut model, &mut random).await;
                assert_eq!(head.position(), Ok(model.at as u64));
                let file = model.objects[..model.at].iter().filter(|object| object.is_none()).count();
                assert_eq!(head.place().await.unwrap().file, file as u64);
            }
            same(&mut head, &model).await;
            drop(head);
            library = lose_power(&reel, &mut model, &mut random).await;
            library.resume(0x100, cartridge("TST001L5", &reel)).await.unwrap();
            let mut head = library.drives()[0].head().await.unwrap();
            assert_eq!(head.read().await, Err(Stop::PositionLost));
            same(&mut head, &model).await;
        }
    });
}

/// More objects than an index lists, cut and written anew around its edges.
#[tokio::test]
async fn indexes_are_crossed_in_both_directions() {
    let reel = Arc::new(MemoryReel::new(ID, 64 * MIB, false));
    let library = loaded(&reel).await;
    let mut head = library.drives()[0].head().await.unwrap();
    let full = super::reel::INDEX_ENTRIES_MAX as u64;
    let number = |at: u64| Object::Record(at.to_be_bytes().to_vec().into());
    for at in 0..2 * full + 10 {
        head.write(if at % 1000 == 999 { Object::Filemark } else { number(at) }, false).await.unwrap();
    }
    for to in [full + 1, full, full - 1] {
        for at in [0, 998, full - 1, full, full + 1, 2 * full - 1] {
            if at < head.medium().extent().objects && at % 1000 != 999 {
                assert_eq!(head.medium().read(at).await, Ok(number(at)));
            }
        }
        head.locate(to).await.unwrap();
        head.write(number(to), false).await.unwrap();
        head.write(number(to + 1), false).await.unwrap();
        head.sync().await.unwrap();
        reel.lose_power(false);
        assert_eq!(reel.extent().objects, to + 2);
        head.rewind().await.unwrap();
        assert_eq!(head.space_filemarks(4).await, Ok(()));
        assert_eq!(head.position(), Ok(4000));
    }
}
