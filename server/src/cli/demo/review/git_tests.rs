//! Tests of reading repositories, against throwaway ones.

use std::ffi::OsStr;

use super::super::testing::TempRepo;
use super::*;

fn read_all(repo: &Repository, files: &[FileEntry]) -> Vec<Option<Blob>> {
    let ids: Vec<&str> = files.iter().map(|file| file.blob.as_str()).collect();
    let mut blobs = Vec::new();
    repo.read_blobs(&ids, |place, blob| {
        assert_eq!(place, blobs.len());
        blobs.push(blob);
    })
    .unwrap();
    blobs
}

#[test]
fn repository_without_commits_is_an_empty_snapshot() {
    let repo = TempRepo::new();
    let snapshot = repo.open().snapshot().unwrap();
    assert_eq!(snapshot.commit, None);
    assert!(snapshot.files.is_empty() && snapshot.skipped.is_empty());
}

#[test]
fn one_file() {
    let repo = TempRepo::with_files(&[("a.txt", "hello\n")]);
    let opened = repo.open();
    let snapshot = opened.snapshot().unwrap();
    assert_eq!(snapshot.commit.as_ref().unwrap().len(), 40);
    assert_eq!(snapshot.files.len(), 1);
    assert_eq!(snapshot.files[0].path, "a.txt");
    assert_eq!(snapshot.files[0].size, 6);
    let blobs = read_all(&opened, &snapshot.files);
    assert_eq!(blobs[0].as_ref().unwrap().content, b"hello\n");
}

#[cfg(target_os = "linux")]
#[test]
fn odd_names_are_listed_and_read() {
    use std::os::unix::ffi::OsStrExt;
    let repo = TempRepo::new();
    let names: &[&[u8]] = &[
        b" lead and trail ",
        b"line\nbreak\ttab.rs",
        b"raw\xff.py",
        b"raw\xfe.py",
        b"-rf",
        b"\"quoted\"",
        "gr\u{fc}n/\u{1f980}.rs".as_bytes(),
    ];
    for name in names {
        repo.write(OsStr::from_bytes(name), name);
    }
    repo.commit();
    let opened = repo.open();
    let snapshot = opened.snapshot().unwrap();
    assert_eq!(snapshot.files.len(), names.len());
    for (file, blob) in snapshot.files.iter().zip(read_all(&opened, &snapshot.files)) {
        let content = blob.unwrap().content;
        assert_eq!(String::from_utf8_lossy(&content), file.path);
    }
    let commit = snapshot.commit.unwrap();
    assert_eq!(opened.tracked_paths(&commit).unwrap().len(), names.len());
}

#[cfg(unix)]
#[test]
fn links_and_submodules_are_skipped() {
    let repo = TempRepo::with_files(&[("real", "x\n")]);
    let commit = repo.git(&["rev-parse", "HEAD"]);
    std::os::unix::fs::symlink("real", repo.path().join("link")).unwrap();
    repo.commit();
    let module = format!("160000,{},module", commit.trim());
    repo.git(&["update-index", "--add", "--cacheinfo", &module]);
    repo.git(&["commit", "--quiet", "--message=module"]);
    let snapshot = repo.open().snapshot().unwrap();
    assert_eq!(snapshot.files.len(), 1);
    let reasons: Vec<&str> = snapshot.skipped.iter().map(|s| s.reason.as_str()).collect();
    assert_eq!(reasons, ["symbolic link", "submodule"]);
}

#[test]
fn subdirectory_limits_the_listing() {
    let repo = TempRepo::with_files(&[("a.rs", "a"), ("sub dir/b.rs", "b")]);
    let opened = Repository::open(&repo.path().join("sub dir")).unwrap();
    let snapshot = opened.snapshot().unwrap();
    assert_eq!(snapshot.prefix, "sub dir/");
    assert_eq!(snapshot.files.len(), 1);
    assert_eq!(snapshot.files[0].path, "sub dir/b.rs");
    let commit = snapshot.commit.unwrap();
    assert_eq!(opened.tracked_paths(&commit).unwrap().len(), 2);
}

#[test]
fn bare_repository() {
    let repo = TempRepo::with_files(&[("a.rs", "fn a() {}\n")]);
    let bare = repo.path().join("bare.git");
    std::fs::rename(repo.path().join(".git"), &bare).unwrap();
    repo.git(&["--git-dir=bare.git", "config", "core.bare", "true"]);
    let opened = Repository::open(&bare).unwrap();
    assert_eq!(opened.snapshot().unwrap().files[0].path, "a.rs");
}

#[test]
fn what_is_no_repository_is_said_so() {
    let directory = TempRepo::directory();
    let error = Repository::open(directory.path()).unwrap_err();
    assert!(matches!(error, GitError::NotARepository { .. }), "{error}");
    let error = Repository::open(&directory.path().join("none")).unwrap_err();
    assert!(matches!(error, GitError::NoDirectory { .. }), "{error}");
}

#[test]
fn refusal_for_ownership_is_said_so() {
    let repo = TempRepo::new();
    let stderr = b"fatal: detected dubious ownership in repository at '/srv/r'\nTo add";
    let error = repo.open().classify("rev-parse", stderr);
    assert!(error.to_string().ends_with("safe.directory /srv/r"));
}

#[test]
fn dangling_head_is_an_error() {
    let repo = TempRepo::with_files(&[("a", "a")]);
    std::fs::write(repo.path().join(".git/HEAD"), "1".repeat(40) + "\n").unwrap();
    let error = repo.open().snapshot().unwrap_err();
    assert!(matches!(error, GitError::BrokenHead { .. }), "{error}");
}

#[test]
fn large_blobs_are_cut_and_missing_ones_reported() {
    let repo = TempRepo::new();
    repo.write("big", &vec![b'a'; 3 * 1024 * 1024]);
    repo.write("small", b"small");
    repo.commit();
    let opened = repo.open();
    let mut files = opened.snapshot().unwrap().files;
    let mut lost = files[1].clone();
    lost.blob = "1".repeat(40);
    files.insert(1, lost);
    let blobs = read_all(&opened, &files);
    let big = blobs[0].as_ref().unwrap();
    assert_eq!(big.content.len() as u64, MAX_BLOB_BYTES);
    assert!(big.is_truncated());
    assert_eq!(blobs[1], None);
    assert_eq!(blobs[2].as_ref().unwrap().content, b"small");
}

#[test]
fn object_ids_are_checked() {
    let repo = TempRepo::with_files(&[("a", "a")]).open();
    for id in ["HEAD", "--help", "", "abc\ndef"] {
        assert!(repo.read_blobs(&[id], |_, _| ()).is_err());
        assert!(repo.tracked_paths(id).is_err());
    }
}
