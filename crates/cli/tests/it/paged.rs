//! Large files that change in place.

use crate::harness::{CONFIG, DOCUMENTS, Place};

/// Bytes that do not compress, others for each number.
fn noise(number: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a file of a test need not survive a power cut")]
fn a_changed_page_of_a_disk_costs_itself_and_comes_back() {
    let disks = r#"disks: { kind: files, paths: ["${HOME}/disks"], paged: ["*.img"] }"#;
    let place = Place::with_config(&CONFIG.replace(DOCUMENTS, disks));
    let mut disk = noise(0, 16 << 20);
    let write = |disk: &[u8]| std::fs::write(place.path("disks/vm.img"), disk).expect("written");
    std::fs::create_dir_all(place.path("disks")).expect("made");
    write(&disk);
    place.run(&["init"]).good();
    place.run(&["backup"]).good();
    for (day, page) in [(1, 3), (2, 700), (3, 2047)] {
        disk[page * 8192..][..8192].copy_from_slice(&noise(day, 8192));
        write(&disk);
        let report = place.run(&["backup", "--json"]).good().out;
        let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
        assert_eq!(report["backups"][0]["new_bytes"], 8192, "{report}");
    }
    place.run(&["check", "--read-data"]).good();
    place.run(&["restore", "disks", "--to", "out", "--yes"]).good();
    let below = place.path("disks/vm.img");
    let restored = place.path("out").join(below.strip_prefix("/").expect("absolute"));
    assert!(std::fs::read(restored).expect("restored") == disk);
}
