use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn key(number: u64) -> RowKey {
    *blake3::hash(&number.to_le_bytes()).as_bytes()
}

fn table(directory: &Path, rows: &[(RowKey, Vec<u8>)], value_bytes: usize) -> Table {
    let mut out = TableWriter::create(&directory.join("t"), value_bytes, rows.len() as u64).expect("created");
    for (key, value) in rows {
        out.push(key, value).expect("written");
    }
    out.finish(b"a note").expect("finished")
}

fn found(table: &Table, key: &RowKey) -> Vec<Vec<u8>> {
    let mut values = Vec::new();
    table.find(key, |value| values.push(value.to_vec())).expect("looked up");
    values
}

fn numbered(count: u64) -> Vec<(RowKey, Vec<u8>)> {
    let mut rows: Vec<_> = (0..count).map(|number| (key(number), number.to_le_bytes().to_vec())).collect();
    rows.sort();
    rows
}

#[test]
fn a_million_keys_are_found_in_little_memory_and_missing_ones_are_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let made = table(directory.path(), &numbered(1_000_000), 8);
    drop(made);
    let table = Table::open(&directory.path().join("t"), 8).expect("opened");
    assert_eq!((table.len(), table.note()), (1_000_000, &b"a note"[..]));
    // 20 MiB for ten million keys are 16.7 bits for each.
    assert!(table.memory_bytes() * 8 < 1_000_000 * 13, "{}", table.memory_bytes());
    for number in (0..1_000_000).step_by(97) {
        assert_eq!(found(&table, &key(number)), [number.to_le_bytes().to_vec()]);
    }
    let passed = (2_000_000..2_100_000).filter(|number| table.filter.may_hold(&key(*number))).count();
    assert!(passed < 2_500, "the filter lets {passed} of 100,000 missing keys pass");
    for number in 2_000_000..2_010_000 {
        assert!(!table.contains(&key(number)).expect("looked up"));
    }
}

#[test]
fn a_damaged_block_is_never_taken_for_sound_however_often_it_is_asked_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let rows = numbered(150);
    drop(table(directory.path(), &rows, 8));
    let path = directory.path().join("t");
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[KEY_BYTES + 3] ^= 1;
    File::create(&path).expect("opened").write_all(&bytes).expect("written");
    let table = Table::open(&path, 8).expect("its head is whole");
    for round in 0..3 {
        let asked = table.contains(&rows[1].0);
        assert!(matches!(asked, Err(TableError::Damaged { .. })), "round {round}: {asked:?}");
    }
}

#[test]
fn every_flipped_byte_is_noticed_and_every_cut() {
    let directory = tempfile::tempdir().expect("a directory");
    let rows = numbered(150);
    drop(table(directory.path(), &rows, 8));
    let path = directory.path().join("t");
    let good = std::fs::read(&path).expect("read");
    let other = directory.path().join("other");
    let write = |bytes: &[u8]| {
        let mut file = File::create(&other).expect("created");
        file.write_all(bytes).expect("written");
    };
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (at % 8);
        write(&flipped);
        let noticed = match Table::open(&other, 8) {
            Err(error) => matches!(error, TableError::Damaged { .. }),
            Ok(table) => table.rows().any(|row| matches!(row, Err(TableError::Damaged { .. }))),
        };
        assert!(noticed, "byte {at}");
    }
    for length in (0..good.len()).step_by(7) {
        write(&good[..length]);
        assert!(Table::open(&other, 8).is_err(), "cut at {length}");
    }
    assert!(matches!(Table::open(&path, 9), Err(TableError::Damaged { .. })));
}

#[test]
fn an_unfinished_table_leaves_the_old_one_and_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    drop(table(directory.path(), &numbered(3), 8));
    let mut writer = TableWriter::create(&directory.path().join("t"), 8, 10).expect("created");
    writer.push(&key(1), &[0; 8]).expect("written");
    drop(writer);
    assert_eq!(Table::open(&directory.path().join("t"), 8).expect("the old one").len(), 3);
    assert_eq!(std::fs::read_dir(directory.path()).expect("listed").count(), 1);
}

#[test]
fn an_empty_table_holds_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    drop(table(directory.path(), &[], 8));
    let table = Table::open(&directory.path().join("t"), 8).expect("opened");
    assert!(table.is_empty() && !table.contains(&key(1)).expect("looked up") && table.rows().next().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_table_answers_like_a_map_of_lists(
        rows in proptest::collection::vec((0u64..60, any::<[u8; 3]>()), 0..400),
        same_start in any::<bool>(),
    ) {
        let keyed = |number: u64| {
            let mut key = key(number);
            if same_start {
                key[..8].fill(7);
            }
            key
        };
        let mut expected: BTreeMap<RowKey, Vec<Vec<u8>>> = BTreeMap::new();
        for (number, value) in &rows {
            expected.entry(keyed(*number)).or_default().push(value.to_vec());
        }
        let flat: Vec<(RowKey, Vec<u8>)> =
            expected.iter().flat_map(|(key, values)| values.iter().map(|value| (*key, value.clone()))).collect();
        let directory = tempfile::tempdir().expect("a directory");
        let table = table(directory.path(), &flat, 3);
        prop_assert_eq!(table.rows().collect::<Result<Vec<_>, _>>().expect("read"), flat);
        for number in 0..70 {
            let wanted = expected.get(&keyed(number)).cloned().unwrap_or_default();
            prop_assert_eq!(found(&table, &keyed(number)), wanted);
        }
    }

    #[test]
    fn merged_rows_are_sorted_and_tell_their_source(
        mut sources in proptest::collection::vec(proptest::collection::vec(0u64..50, 0..80), 0..5),
    ) {
        let tables: Vec<Vec<Result<Row, TableError>>> = sources.iter_mut().map(|numbers| {
            let mut rows: Vec<_> = numbers.iter().map(|number| (key(*number), Vec::new())).collect();
            rows.sort();
            rows.into_iter().map(Ok).collect()
        }).collect();
        let mut expected: Vec<(RowKey, usize)> = tables.iter().enumerate()
            .flat_map(|(source, rows)| rows.iter().map(move |row| (row.as_ref().expect("a row").0, source)))
            .collect();
        expected.sort_unstable();
        let boxed = tables.into_iter().map(|rows| Box::new(rows.into_iter()) as Box<dyn Iterator<Item = _>>).collect();
        let merged: Vec<_> = Merge::new(boxed).map(|row| row.map(|(source, (key, _))| (key, source)).expect("a row")).collect();
        prop_assert_eq!(merged, expected);
    }
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("read");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number") << 10
}

#[test]
#[ignore = "writes 600 MB; run by itself with --ignored"]
fn ten_million_rows_cost_less_than_20_mib() {
    const ROWS: u64 = 10_000_000;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("t");
    let key_of = |number: u64| {
        let mut key = key(number);
        key[..8].copy_from_slice(&(number * (u64::MAX / ROWS)).to_be_bytes());
        key
    };
    let mut out = TableWriter::create(&path, 26, ROWS).expect("created");
    for number in 0..ROWS {
        out.push(&key_of(number), &[7; 26]).expect("written");
    }
    drop(out.finish(b"").expect("finished"));
    let before = resident();
    let table = Table::open(&path, 26).expect("opened");
    let found = (0..ROWS).step_by(101).filter(|number| table.contains(&key_of(*number)).expect("looked up")).count();
    assert_eq!(found as u64, ROWS.div_ceil(101));
    let grown = resident().saturating_sub(before);
    assert!(grown < 20 << 20, "{grown} bytes");
}
