//! SFTP on real OpenSSH servers: the contract of stores, what goes wrong and how it is told.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use lifeboat_store::sftp::SftpStore;
use lifeboat_store::{PutMode, Store, StoreErrorKind, conformance};
use lifeboat_testkit::sshd::{Account, SshServer};

use crate::{TIMES, key, put, store_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_login_keeps_the_contract() {
    let Some(server) = SshServer::start("a_plain_login_keeps_the_contract", Account::Plain) else { return };
    conformance::run(Arc::new(store_of(&server, &server.options()))).await;
    let left: Vec<_> = fs::read_dir(server.store().join(".tmp")).expect("made").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chrooted_login_without_a_shell_keeps_the_contract() {
    let test = "a_chrooted_login_without_a_shell_keeps_the_contract";
    let Some(server) = SshServer::start(test, Account::Chroot) else { return };
    conformance::run(Arc::new(store_of(&server, &server.options()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_channel_is_enough() {
    let Some(server) = SshServer::start_with("one_channel_is_enough", Account::Plain, "MaxSessions 1") else { return };
    conformance::run(Arc::new(store_of(&server, &server.options()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_their_directories_are_written_through_to_the_disk() {
    let test = "files_and_their_directories_are_written_through_to_the_disk";
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("log");
    let told = format!("Subsystem sftp /usr/lib/openssh/sftp-server -e -l DEBUG3 2>>{}", log.display());
    let Some(server) = SshServer::start_with(test, Account::Plain, &told) else { return };
    put(&store_of(&server, &server.options()), "data/00").await.expect("put");
    let log = fs::read_to_string(log).expect("a log");
    // One for the file, one for `data` in its directory, `.tmp` in its, and the name in `data`.
    assert!(log.matches(": fsync (handle").count() >= 4, "{log}");
    assert!(!log.contains("sent status Failure"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_root_is_made_for_a_new_store_only() {
    let Some(server) = SshServer::start("a_missing_root_is_made_for_a_new_store_only", Account::Plain) else { return };
    let address = || format!("{}@127.0.0.1:{}", server.user(), server.port()).parse().expect("an address");
    let root = format!("{}/deep/er", server.remote());
    let store = SftpStore::new("sftp://old", address(), &root, &server.options(), TIMES);
    assert_eq!(put(&store, "data/00").await.expect_err("not there").kind, StoreErrorKind::NotFound);
    let listed = store.list("data/").try_collect::<Vec<_>>().await;
    assert_eq!(listed.expect_err("not there").kind, StoreErrorKind::NotFound);
    let store = SftpStore::creating("sftp://new", address(), &root, &server.options(), TIMES);
    assert!(store.list("").try_collect::<Vec<_>>().await.expect("an empty store").is_empty());
    put(&store, "data/00").await.expect("put");
    let mode = |below: &str| fs::metadata(server.store().join(below)).expect("there").permissions().mode() & 0o7777;
    assert_eq!((mode("deep/er"), mode("deep/er/data"), mode("deep/er/data/00")), (0o700, 0o700, 0o600));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_a_group_shares_stays_shared_and_strangers_in_it_are_not_listed() {
    let Some(server) = SshServer::start("a_root_that_a_group_shares_stays_shared", Account::Plain) else { return };
    fs::set_permissions(server.store(), Permissions::from_mode(0o2770)).expect("set");
    let store = store_of(&server, &server.options());
    put(&store, "data/00").await.expect("put");
    let mode = |below: &str| fs::metadata(server.store().join(below)).expect("there").permissions().mode() & 0o7777;
    assert_eq!((mode("data"), mode(".tmp"), mode("data/00")), (0o2770, 0o2770, 0o640));
    fs::create_dir(server.store().join("lost+found")).expect("created");
    std::os::unix::fs::symlink("/etc/passwd", server.store().join("data/link")).expect("linked");
    let listed: Vec<_> = store.list("").map_ok(|o| o.key.to_string()).try_collect().await.expect("listed");
    assert_eq!(listed, ["data/00"]);
    let found = store.examine().await.expect("examined");
    assert!(found.room_bytes.is_some_and(|bytes| bytes > 0) && found.lacks.is_empty(), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_leftovers_are_removed_and_young_ones_are_left_to_their_owner() {
    let Some(server) = SshServer::start("old_leftovers_are_removed", Account::Plain) else { return };
    let temp = server.store().join(".tmp");
    fs::create_dir(&temp).expect("created");
    for (name, age_hours) in [("old", 25), ("young", 23)] {
        let file = File::create(temp.join(name)).expect("created");
        let now = file.metadata().and_then(|m| m.modified()).expect("a time");
        file.set_modified(now - Duration::from_hours(age_hours)).expect("set");
    }
    put(&store_of(&server, &server.options()), "format").await.expect("put");
    assert_eq!((temp.join("old").exists(), temp.join("young").exists()), (false, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_the_account_may_not_write_is_told_as_such() {
    let test = "a_directory_that_the_account_may_not_write_is_told_as_such";
    let Some(server) = SshServer::start(test, Account::Chroot) else { return };
    let store = store_of(&server, &server.options());
    put(&store, "data/00").await.expect("put");
    std::os::unix::fs::chown(server.store().join("data"), Some(0), Some(0)).expect("given to root");
    fs::set_permissions(server.store().join("data"), Permissions::from_mode(0o755)).expect("set");
    assert_eq!(put(&store, "data/01").await.expect_err("denied").kind, StoreErrorKind::Denied);
    assert_eq!(store.delete(&key("data/00")).await.expect_err("denied").kind, StoreErrorKind::Denied);
    assert_eq!(fs::read_dir(server.store().join(".tmp")).expect("there").count(), 0, "nothing is left over");
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "a small disk is mounted by the tool for it")]
async fn a_full_disk_is_told_as_such_and_leaves_nothing_behind() {
    let Some(server) = SshServer::start("a_full_disk_is_told_as_such", Account::Chroot) else { return };
    let tool = |program: &str, args: &[&str]| std::process::Command::new(program).args(args).output().expect("starts");
    let at = server.store().display().to_string();
    assert!(tool("mount", &["-t", "tmpfs", "-o", "size=2m,mode=1777", "tmpfs", &at]).status.success());
    let store = store_of(&server, &server.options());
    put(&store, "data/00").await.expect("a little fits");
    let large = store.put(&key("data/01"), Bytes::from(vec![1; 4 << 20]), PutMode::CreateNew).await;
    let files = fs::read_dir(server.store().join(".tmp")).expect("there").count();
    drop(store);
    let unmounted = tool("umount", &["-l", &at]).status.success();
    let error = large.expect_err("full");
    assert_eq!((error.kind, files, unmounted), (StoreErrorKind::Full, 0, true), "{error:?}");
    assert!(error.hint().expect("a hint").contains("prune"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_of_the_server_the_next_call_connects_anew() {
    let test = "after_a_restart_of_the_server_the_next_call_connects_anew";
    let Some(mut server) = SshServer::start(test, Account::Plain) else { return };
    let store = store_of(&server, &server.options());
    put(&store, "data/00").await.expect("put");
    for n in 1..4 {
        server.kill();
        let error = put(&store, &format!("data/{n}")).await.expect_err("nobody is there");
        assert_eq!(error.kind, StoreErrorKind::Transient, "{error:?}");
        server.restart();
        put(&store, &format!("data/{n}")).await.expect("connected anew");
    }
    assert_eq!(store.list("data/").try_collect::<Vec<_>>().await.expect("listed").len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_never_there_is_no_reason_to_try_for_minutes() {
    let Some(mut server) = SshServer::start("a_server_that_was_never_there", Account::Plain) else { return };
    server.kill();
    let error = put(&store_of(&server, &server.options()), "data/00").await.expect_err("nobody is there");
    assert_eq!(error.kind, StoreErrorKind::Failed, "{error:?}");
    assert!(error.hint().expect("a hint").contains("port"), "{error:?}");
}
