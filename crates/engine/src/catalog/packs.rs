//! Which packs of a repository were read and found sound, and when: what a check need not read again.

use std::collections::HashMap;

use jiff::Timestamp;
use lifeboat_model::ObjectHash;
use rusqlite::params;

use super::{Catalog, CatalogError, failed};

impl Catalog {
    /// When each pack of a repository was read last. Without this memory a check reads them all.
    ///
    /// # Errors
    /// [`CatalogError`] where it cannot be read.
    pub fn packs_read(&self, repository: &str) -> Result<HashMap<ObjectHash, Timestamp>, CatalogError> {
        let connection = self.lock();
        let read = || -> rusqlite::Result<HashMap<_, _>> {
            let mut query = connection.prepare("SELECT pack, time FROM packs_read WHERE repository = ?1")?;
            let rows = query.query_map([repository], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?)))?;
            // What is no hash or no time was not written by this program.
            let known = |(pack, time): (Vec<u8>, i64)| {
                let pack: [u8; 32] = pack.try_into().ok()?;
                Some((ObjectHash::from(pack), Timestamp::from_second(time).ok()?))
            };
            rows.filter_map(|row| row.map(known).transpose()).collect()
        };
        read().map_err(failed("reading which packs were checked"))
    }

    /// Takes note of packs that were read and are sound, and forgets those that are gone.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn read_packs(
        &self,
        repository: &str,
        sound: &[ObjectHash],
        gone: &[ObjectHash],
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let mut connection = self.lock();
        let mut write = || -> rusqlite::Result<()> {
            let change = connection.transaction()?;
            {
                let mut add = change.prepare("INSERT OR REPLACE INTO packs_read VALUES (?1, ?2, ?3)")?;
                for pack in sound {
                    add.execute(params![repository, pack.bytes(), now.as_second()])?;
                }
                let mut drop = change.prepare("DELETE FROM packs_read WHERE repository = ?1 AND pack = ?2")?;
                for pack in gone {
                    drop.execute(params![repository, pack.bytes()])?;
                }
            }
            change.commit()
        };
        write().map_err(failed("remembering which packs were checked"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_are_remembered_by_repository_until_they_are_gone() {
        let state = tempfile::tempdir().expect("a directory");
        let time = |second| Timestamp::from_second(second).expect("a time");
        let pack = |number: u8| ObjectHash::from([number; 32]);
        let catalog = Catalog::open(state.path(), time(1));
        catalog.read_packs("r", &[pack(1), pack(2)], &[], time(10)).expect("written");
        catalog.read_packs("r", &[pack(2), pack(3)], &[pack(1)], time(20)).expect("written");
        catalog.read_packs("other", &[pack(9)], &[], time(30)).expect("written");
        drop(catalog);
        let read = Catalog::open(state.path(), time(40)).packs_read("r").expect("read");
        assert_eq!(read, HashMap::from([(pack(2), time(20)), (pack(3), time(20))]));
    }
}
