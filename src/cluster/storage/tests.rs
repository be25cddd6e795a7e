//! A storage thread in place of the process, over the same frames: what ends the pipe is the same.

use super::*;

fn append(index: u64) -> Change {
    Change::Append { group: 1, entries: vec![(index, ByteBuf::from(vec![7; 3]))] }
}

fn open(dir: &Path) -> Arc<Storage> {
    Storage::open(dir, &Place::Thread, Seal::new(b"a secret", b"storage")).unwrap()
}

fn indexes(storage: &Storage) -> Vec<u64> {
    storage.log(GroupId(1)).unwrap().entries.into_iter().map(|(index, _)| index).collect()
}

/// A node with so much on its disk that it counts as whole.
fn caught_up(dir: &Path) -> Arc<Storage> {
    let storage = open(dir);
    storage.caught_up();
    storage.close();
    open(dir)
}

/// A kill -9 as the storage sees it: the pipe ends, with things in it, and nobody said goodbye.
fn killed(storage: Arc<Storage>) {
    *lock(&storage.pipe) = Box::new(io::sink());
}

#[test]
fn nothing_that_was_written_is_forgotten_when_the_node_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let storage = caught_up(dir.path());
    for index in 1..=50 {
        storage.write(append(index)).unwrap();
    }
    storage.write(Change::Truncate { group: 1, from: 41 }).unwrap();
    killed(storage);
    let reborn = open(dir.path());
    assert_eq!((reborn.memory(), indexes(&reborn)), (Memory::Whole, (1..=40).collect::<Vec<_>>()));
}

/// A machine that stops takes the storage along: what it leaves is copied while it runs, and opened elsewhere.
#[test]
fn what_the_machine_may_have_forgotten_is_in_doubt_until_it_is_caught_up() {
    let (alive, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let storage = caught_up(alive.path());
    assert_eq!(storage.memory(), Memory::Whole);
    let (sender, done) = channel();
    storage.write_to_platter(append(1), move |result| sender.send(result.is_ok()).unwrap());
    assert_eq!(done.recv(), Ok(true));
    copy(&alive.path().join("sled"), &after.path().join("sled"));
    for _ in 0..2 {
        let storage = open(after.path());
        assert_eq!((storage.memory(), indexes(&storage)), (Memory::Doubtful, vec![1]));
        storage.close();
    }
    caught_up(after.path()).close();
    assert_eq!(open(after.path()).memory(), Memory::Whole);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

/// An empty disk that was opened once and not caught up is no memory, even if nothing ever went wrong.
#[test]
fn a_blank_disk_stays_blank_until_it_was_caught_up() {
    let dir = tempfile::tempdir().unwrap();
    let start = |caught_up: bool| {
        let storage = open(dir.path());
        if caught_up {
            storage.caught_up();
        }
        storage.close();
        storage.memory()
    };
    assert_eq!([false, true, true].map(start), [Memory::Blank, Memory::Blank, Memory::Whole]);
}

#[test]
fn what_is_on_the_platter_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let storage = caught_up(dir.path());
    let (sender, done) = channel();
    let put = Change::Put { group: 1, name: "vote".into(), value: ByteBuf::from(b"7".to_vec()) };
    storage.write_to_platter(put, move |result| sender.send(result.is_ok()).unwrap());
    assert_eq!(done.recv(), Ok(true));
    let large: Vec<u8> = (0..PIECE * 2 + 1).map(|n| u8::try_from(n % 251).unwrap()).collect();
    storage.write_large(GroupId(1), "snapshot", &large).unwrap();
    storage.write_large(GroupId(2), "snapshot", &[]).unwrap();
    storage.write(append(1)).unwrap();
    storage.write(Change::Purge { group: 1, upto: 1, id: ByteBuf::from(b"id".to_vec()) }).unwrap();
    storage.write(append(2)).unwrap();
    // What is gathered is read too.
    for again in 0..2 {
        let storage = if again == 0 { storage.clone() } else { open(dir.path()) };
        assert_eq!(storage.value(GroupId(1), "vote").unwrap().as_deref(), Some(&b"7"[..]));
        assert_eq!(storage.value(GroupId(1), "snapshot").unwrap(), Some(large.clone()));
        assert_eq!(storage.value(GroupId(2), "snapshot").unwrap(), Some(Vec::new()));
        assert_eq!(storage.log(GroupId(1)).unwrap().purged.map(ByteBuf::into_vec), Some(b"id".to_vec()));
        assert_eq!(indexes(&storage), [2]);
        storage.close();
    }
}

/// Whoever waits for the platter is told when there is no storage any more.
#[test]
fn a_storage_that_is_gone_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path());
    storage.close();
    let (sender, done) = channel();
    storage.write_to_platter(append(1), move |result| sender.send(result.is_err()).unwrap());
    assert_eq!(done.recv_timeout(Duration::from_secs(5)), Ok(true));
}

#[test]
fn a_frame_that_is_not_whole_is_the_end() {
    let mut bytes = Vec::new();
    write_frame(&mut bytes, &Ask::CaughtUp).unwrap();
    let whole = bytes.len();
    write_frame(&mut bytes, &Ask::Write(append(1))).unwrap();
    for cut in whole..bytes.len() {
        let mut reader = &bytes[..cut];
        assert!(matches!(read_frame::<Ask>(&mut reader), Ok(Some(Ask::CaughtUp))));
        assert!(matches!(read_frame::<Ask>(&mut reader), Ok(None)), "cut at {cut}");
    }
}

#[test]
fn a_disk_of_another_release_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let sled = || sled::Config::new().path(dir.path().join("sled")).open().unwrap();
    sled().open_tree("values").unwrap().insert("format", b"4").unwrap();
    let refused = Storage::open(dir.path(), &Place::Thread, Seal::new(b"a secret", b"storage"))
        .err()
        .map(|error| error.to_string())
        .unwrap();
    assert!(refused.ends_with("it is in the format of another release"), "{refused}");
    assert_eq!(sled().open_tree("values").unwrap().len(), 1);
}

/// What was in the pipe counted as kept: whoever can't read it must not say that nothing is missing.
#[test]
fn a_pipe_that_breaks_leaves_a_doubt() {
    let dir = tempfile::tempdir().unwrap();
    let storage = caught_up(dir.path());
    storage.write(append(1)).unwrap();
    lock(&storage.pipe).write_all(&[0, 0, 0, 2, 0xc1, 0xc1]).unwrap();
    let (sender, ended) = channel();
    storage.ask(|id| Ask::Value(id, 1, "vote".into()), move |answer| sender.send(answer.is_err()).unwrap());
    assert_eq!(ended.recv_timeout(Duration::from_secs(5)), Ok(true));
    let again = open(dir.path());
    assert_eq!((again.memory(), indexes(&again)), (Memory::Doubtful, vec![1]));
}
