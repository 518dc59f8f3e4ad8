use lifeboat_model::entry::Principal;
use lifeboat_model::{EntryKind, Xattr};
use proptest::prelude::*;

use super::*;

pub(crate) fn path(text: &str) -> EntryPath {
    EntryPath::new(text).expect("a good path")
}

fn extent() -> impl Strategy<Value = Extent> {
    prop_oneof![
        (1u64..1 << 40).prop_map(Extent::Hole),
        (any::<[u8; 32]>(), 0u32..1000, 1u32..1 << 20).prop_map(|(id, offset, len)| Extent::Chunk {
            id: id.into(),
            offset,
            len
        }),
    ]
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        proptest::collection::vec(extent(), 0..20).prop_map(Content::Inline),
        proptest::collection::vec((any::<[u8; 32]>().prop_map(ChunkId::from), 0u64..1 << 50), 0..20)
            .prop_map(Content::Pages),
    ]
}

fn principal() -> impl Strategy<Value = Principal> {
    (any::<u32>(), proptest::option::of("[a-z]{1,8}")).prop_map(|(id, name)| Principal { id, name })
}

fn meta() -> impl Strategy<Value = EntryMeta> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..20);
    let xattr = (bytes(), bytes()).prop_map(|(name, value)| Xattr { name, value });
    let first = (0u8..9, proptest::option::of(0u32..0o10000), proptest::option::of(principal()));
    let second =
        (proptest::option::of(any::<(i64, u32)>()), proptest::option::of(bytes()), any::<Option<(u32, u32)>>());
    let third = (
        proptest::collection::vec(xattr, 0..3),
        proptest::option::of("[a-z ]{0,12}"),
        proptest::collection::btree_map("[a-z.]{1,12}", "[a-z0-9]{0,6}", 0..3),
    );
    (first, second, third).prop_map(|((kind, mode, owner), (mtime, link, device), (xattrs, why, extra))| EntryMeta {
        kind: EntryKind::from_number(kind).expect("a kind"),
        mode,
        group: owner.clone(),
        owner,
        mtime: mtime.map(|(seconds, nanoseconds)| (seconds, nanoseconds % 1_000_000_000)),
        link,
        device,
        xattrs,
        why,
        extra,
    })
}

fn entry() -> impl Strategy<Value = StoredEntry> {
    ("[a-z]{1,8}(/[a-z-]{1,8}){0,2}", meta(), content()).prop_map(|(text, meta, content)| StoredEntry {
        path: path(&text),
        meta,
        content,
    })
}

fn golden_entry() -> StoredEntry {
    let chunk = |offset, len| Extent::Chunk { id: ChunkId::from([0xaa; 32]), offset, len };
    StoredEntry {
        path: path("a"),
        meta: EntryMeta {
            mode: Some(0o644),
            owner: Some(Principal { id: 0, name: Some("root".into()) }),
            group: Some(Principal { id: 7, name: None }),
            mtime: Some((-1, 500)),
            ..EntryMeta::new(EntryKind::File)
        },
        content: Content::Inline(vec![chunk(0, 5), Extent::Hole(300), chunk(2, 1)]),
    }
}

#[test]
fn the_bytes_of_a_page_are_those_of_the_format() {
    let id = "aa".repeat(32);
    let entry = format!(
        "a8 00 4161 01 00 02 1901a4 03 82 00 64726f6f74 04 82 07 f6 05 82 20 1901f4 \
         0b 190132 0c 83 82 5820{id} 05 81 19012c 83 5820{id} 02 01"
    )
    .replace(' ', "");
    assert_eq!(hex::encode(golden_entry().encode()), entry);
    let page = ManifestPage::assemble(0, &[golden_entry().encode()]);
    assert_eq!(hex::encode(&page), format!("820081{entry}"));
    let child = ChildPage { first: path("a"), id: ChunkId::from([0xaa; 32]), entries: 1, bytes: 306 };
    let inner = ManifestPage::assemble(1, &[child.encode()]);
    assert_eq!(hex::encode(&inner), format!("820181844161 5820{id} 01190132").replace(' ', ""));
    assert_eq!(ManifestPage::decode(&inner), Ok(ManifestPage::Pages { level: 1, children: vec![child] }));
    let reference = ReferencePage { page: [0xbb; 32].into(), chunks: vec![[0xaa; 32].into()], pages: vec![] };
    assert_eq!(hex::encode(reference.encode()), format!("835820{}5820{id}40", "bb".repeat(32)));
}

#[test]
fn a_page_out_of_order_or_with_a_path_that_leaves_its_directory_is_refused() {
    let entry = |text: &str| {
        let entry = StoredEntry { path: path(text), ..golden_entry() };
        entry.encode()
    };
    assert!(ManifestPage::decode(&ManifestPage::assemble(0, &[entry("a"), entry("a/b"), entry("a-b")])).is_ok());
    assert!(ManifestPage::decode(&ManifestPage::assemble(0, &[entry("b"), entry("a")])).is_err());
    assert!(ManifestPage::decode(&ManifestPage::assemble(0, &[entry("a"), entry("a")])).is_err());
    let mut evil = entry("aa/b");
    let at = evil.windows(4).position(|window| window == b"aa/b").expect("the path");
    evil[at..at + 2].copy_from_slice(b"..");
    assert!(ManifestPage::decode(&ManifestPage::assemble(0, &[evil])).is_err());
    assert!(ManifestPage::decode(&ManifestPage::assemble::<Vec<u8>>(1, &[])).is_err());
    assert_eq!(ManifestPage::decode(&ManifestPage::assemble::<Vec<u8>>(0, &[])), Ok(ManifestPage::Entries(vec![])));
}

#[test]
fn an_entry_whose_extents_do_not_add_up_is_refused() {
    let bytes = golden_entry().encode();
    let at = bytes.windows(3).position(|window| window == [0x19, 0x01, 0x32]).expect("the length");
    let mut wrong = bytes;
    wrong[at + 2] += 1;
    assert!(ManifestPage::decode(&ManifestPage::assemble(0, &[wrong])).is_err());
    let huge = Content::Inline(vec![Extent::Hole(u64::MAX), Extent::Hole(u64::MAX)]);
    assert!(Content::decode(&huge.encode()).is_err());
}

proptest! {
    #[test]
    fn pages_come_back_as_they_were(entries in proptest::collection::vec(entry(), 0..6)) {
        let mut entries = entries;
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        entries.dedup_by(|a, b| a.path == b.path);
        let items: Vec<Vec<u8>> = entries.iter().map(StoredEntry::encode).collect();
        let page = ManifestPage::assemble(0, &items);
        prop_assert_eq!(ManifestPage::decode(&page), Ok(ManifestPage::Entries(entries.clone())));
        for entry in &entries {
            prop_assert_eq!(Content::decode(&entry.content.encode()), Ok(entry.content.clone()));
        }
    }

    #[test]
    fn content_and_reference_pages_come_back_as_they_were(
        extents in proptest::collection::vec(extent(), 0..50),
        ids in proptest::collection::vec(any::<[u8; 32]>().prop_map(ChunkId::from), 0..20),
        cut in 0usize..20,
    ) {
        prop_assert_eq!(decode_content_page(&encode_content_page(&extents)), Ok(extents));
        let (chunks, pages) = ids.split_at(cut.min(ids.len()));
        let page = ReferencePage { page: [1; 32].into(), chunks: chunks.to_vec(), pages: pages.to_vec() };
        prop_assert_eq!(ReferencePage::decode(&page.encode()), Ok(page));
    }

    #[test]
    fn damaged_pages_never_panic(entry in entry(), at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<bool>()) {
        let mut page = ManifestPage::assemble(0, &[entry.encode()]);
        let at = at.index(page.len());
        if cut {
            page.truncate(at);
            prop_assert!(ManifestPage::decode(&page).is_err());
        } else {
            page[at] ^= 1 << bit;
            let _ = ManifestPage::decode(&page);
        }
        let _ = decode_content_page(&page);
        let _ = ReferencePage::decode(&page);
    }
}

#[test]
fn a_field_that_is_not_known_leaves_an_entry_as_it_is() {
    let entry = StoredEntry {
        path: EntryPath::new(b"a".as_slice()).expect("a path"),
        meta: EntryMeta::new(EntryKind::File),
        content: Content::Inline(vec![Extent::Hole(3)]),
    };
    let mut later = entry.encode();
    later[0] += 1;
    later.extend_from_slice(&[14, 0x63, b'n', b'e', b'w']);
    let read = ManifestPage::decode(&ManifestPage::assemble(0, &[later])).expect("read");
    assert_eq!(read, ManifestPage::Entries(vec![entry]));
}
