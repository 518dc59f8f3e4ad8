//! Streams that change a little from backup to backup.

use std::fmt::Write;

use super::*;

fn pieces(bytes: &[u8]) -> Vec<Piece> {
    bytes.chunks(700_001).map(|piece| Piece::Data(Bytes::copy_from_slice(piece))).collect()
}

/// Rows of a table; those whose number `changed` picks look as they do after `day` days.
fn rows(count: usize, day: usize, changed: impl Fn(usize) -> bool) -> Vec<u8> {
    let mut out = String::new();
    for number in 0..count {
        let version = if changed(number) { day } else { 0 };
        let token = blake3::hash(format!("{number} {version}").as_bytes()).to_hex();
        writeln!(out, "{number}\t{token}\tversion {version}\t{}", &token[..number % 40]).expect("written");
    }
    out.into_bytes()
}

async fn backup(host: &Host, name: &str, shape: Shape, bytes: &[u8]) -> Sealed {
    let writer = host.begin().await;
    // No fingerprint is ever the same: each day's dump is read anew.
    let fingerprint = Some(Fingerprint::of(blake3::hash(bytes).as_bytes()));
    writer.put(&path(name), &file(), fingerprint, stream(shape, pieces(bytes))).await.expect("stored");
    writer.seal(point()).await.expect("sealed")
}

async fn assert_same(host: &Host, sealed: &Sealed, name: &str, bytes: &[u8]) {
    let reader = host.reader().await;
    assert!(reader.files(sealed.id).await[&path(name)] == bytes, "{name}");
    assert_eq!(reader.referenced(sealed.id).await, reader.needed(sealed.id).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_row_costs_about_itself_day_after_day() {
    let host = Host::new().await;
    let mut bytes = rows(40_000, 0, |_| false);
    backup(&host, "events/1.dat", Shape::Rows, &bytes).await;
    for day in 1..=4 {
        // One row in a hundred, each day others: 400 rows of about 110 bytes, in nearly every chunk.
        bytes = rows(40_000, day, |number| number % 100 == day * 7);
        let sealed = backup(&host, "events/1.dat", Shape::Rows, &bytes).await;
        assert!(sealed.stats.new_bytes < 1_200_000, "day {day}: {} of {}", sealed.stats.new_bytes, bytes.len());
        assert_same(&host, &sealed, "events/1.dat", &bytes).await;
    }
    // Without the maps the same change costs nearly every chunk.
    std::fs::remove_dir_all(host.state().join("cache/slices")).expect("removed");
    bytes = rows(40_000, 5, |number| number % 100 == 35);
    let sealed = backup(&host, "events/1.dat", Shape::Rows, &bytes).await;
    assert!(sealed.stats.new_bytes > 2_500_000, "{}", sealed.stats.new_bytes);
    assert_same(&host, &sealed, "events/1.dat", &bytes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overwritten_page_costs_itself() {
    let host = Host::new().await;
    let mut bytes = noise(1, 12 << 20).to_vec();
    backup(&host, "base/16384", Shape::Pages, &bytes).await;
    let mut changed = 0;
    for page in (0..1536).step_by(50) {
        bytes[page * 8192..][..8192].copy_from_slice(&noise(page.to_le_bytes()[0], 8192));
        changed += 8192;
    }
    let sealed = backup(&host, "base/16384", Shape::Pages, &bytes).await;
    assert_eq!(sealed.stats.new_bytes, changed, "each page is known, and nothing else is stored");
    assert_same(&host, &sealed, "base/16384", &bytes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_file_is_sliced_from_its_second_change_on() {
    let host = Host::new().await;
    let mut bytes = noise(2, 10 << 20).to_vec();
    let cost = [(1, 10 << 20), (2, 1 << 20), (3, 30 << 10)];
    for (day, most) in cost {
        bytes[5_000_000..5_000_100].fill(day);
        let sealed = backup(&host, "srv/mail.box", Shape::Stream, &bytes).await;
        assert!(sealed.stats.new_bytes <= most, "day {day}: {}", sealed.stats.new_bytes);
        assert_same(&host, &sealed, "srv/mail.box", &bytes).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "a file of a test need not survive a power cut")]
async fn a_map_of_a_stream_that_is_gone_or_damaged_does_no_harm() {
    let host = Host::new().await;
    let maps = || {
        let tag = std::fs::read_dir(host.state().join("cache/slices")).expect("maps").next().expect("a source");
        let maps = std::fs::read_dir(tag.expect("an entry").path()).expect("maps");
        maps.map(|entry| entry.expect("an entry").path()).collect::<Vec<_>>()
    };
    let bytes = rows(20_000, 0, |_| false);
    backup(&host, "old", Shape::Rows, &bytes).await;
    let [old] = &maps()[..] else { panic!("one map") };
    backup(&host, "other", Shape::Rows, &bytes).await;
    let [other] = &maps()[..] else { panic!("one map") };
    assert_ne!(old, other);

    let mut damaged = std::fs::read(other).expect("read");
    damaged[1000] ^= 1;
    std::fs::write(other, damaged).expect("written");
    let changed = rows(20_000, 1, |number| number % 100 == 0);
    let sealed = backup(&host, "other", Shape::Rows, &changed).await;
    assert!(sealed.stats.new_bytes > 1_000_000);
    assert_same(&host, &sealed, "other", &changed).await;

    // A run that is not sealed leaves the maps as they are, and nothing beside them.
    let before = std::fs::read(other).expect("read");
    let writer = host.begin().await;
    put(&writer, "other", stream(Shape::Rows, pieces(&bytes))).await.expect("stored");
    drop(writer);
    assert_eq!(maps().len(), 1);
    assert!(std::fs::read(other).expect("read") == before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_stream_keeps_its_map() {
    let host = Host::new().await;
    let bytes = rows(20_000, 0, |_| false);
    let fingerprint = Fingerprint::of(b"the same");
    let writer = host.begin().await;
    writer.put(&path("a"), &file(), Some(fingerprint), stream(Shape::Rows, pieces(&bytes))).await.expect("stored");
    writer.seal(point()).await.expect("sealed");
    let writer = host.begin().await;
    assert!(matches!(writer.keep(&path("a"), &file(), &fingerprint).await.expect("asked"), Kept::Yes { .. }));
    writer.seal(point()).await.expect("sealed");
    let changed = rows(20_000, 1, |number| number % 100 == 0);
    let sealed = backup(&host, "a", Shape::Rows, &changed).await;
    assert!(sealed.stats.new_bytes < 600_000, "{}", sealed.stats.new_bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_at_once_do_not_wait_for_each_other() {
    let host = Host::new().await;
    for day in 0..2 {
        let writer = Arc::new(host.begin().await);
        let streams = (0..24).map(|number| {
            let (writer, bytes) = (Arc::clone(&writer), rows(30_000, day, move |row| row % 500 == number));
            tokio::spawn(async move {
                put(&writer, &format!("table-{number}"), stream(Shape::Rows, pieces(&bytes))).await.expect("stored");
                bytes
            })
        });
        let contents = futures::future::join_all(streams).await;
        let sealed = Arc::into_inner(writer).expect("alone").seal(point()).await.expect("sealed");
        let files = host.reader().await.files(sealed.id).await;
        for (number, bytes) in contents.into_iter().enumerate() {
            assert!(files[&path(&format!("table-{number}"))] == bytes.expect("stored"), "day {day}, table {number}");
        }
    }
}
