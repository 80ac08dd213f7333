//! Transactions: what is committed is there, what is not is not, and nobody comes between.

use std::time::Duration;

use super::*;

/// A table to try things on.
fn table() -> &'static Table {
    TABLES[0]
}

#[tokio::test]
async fn every_table_keeps_its_rows() {
    for store in stores().await {
        for table in TABLES {
            let rows: Vec<_> = (1..=3).map(|salt| row(table, salt)).collect();
            let inserts = TableSave {
                inserts: rows[..2].to_vec(),
                upserts: rows[2..].to_vec(),
                ..unchanged(table)
            };
            save(&store, "a", vec![inserts], Vec::new()).await.expect("a save");
            assert_eq!(all_rows(&store, "a", table).await, rows, "{}", table.name);

            let mut changed = row(table, 9);
            changed[..table.key].clone_from_slice(&rows[0][..table.key]);
            let changes = TableSave {
                upserts: vec![changed.clone()],
                deletes: vec![key_of(table, &rows[1])],
                ..unchanged(table)
            };
            save(&store, "a", vec![changes], Vec::new()).await.expect("a save");
            assert_eq!(
                all_rows(&store, "a", table).await,
                [changed, rows[2].clone()],
                "{}",
                table.name
            );
        }
    }
}

#[tokio::test]
async fn values_come_back_as_they_were() {
    let int_values = [0, -1, i64::MIN, i64::MAX];
    let long = "x".repeat(200_000);
    let text_values = ["", "é", "\u{10ffff}", "a\nb\"'\\{},", "NULL", &long];
    let blob_values: [&[u8]; 4] = [b"", b"\0", b"\xff\x00\xfe", long.as_bytes()];
    for store in stores().await {
        for table in TABLES {
            let rows: Vec<Columns> = (0..6)
                .map(|salt| {
                    let mut row = row(table, salt);
                    for (place, column) in table.columns.iter().enumerate().skip(table.key) {
                        let salt = usize::try_from(salt).unwrap_or(0) + place;
                        row[place] = match column.kind {
                            _ if column.nullable && salt % 3 == 0 => Value::Null,
                            Kind::Int => Value::Int(int_values[salt % 4]),
                            // An index takes no text as long as that.
                            Kind::Text if is_indexed(table, place) => Value::Text(text_values[salt % 5].to_owned()),
                            Kind::Text => Value::Text(text_values[salt % 6].to_owned()),
                            Kind::Blob => Value::Blob(bytes::Bytes::copy_from_slice(blob_values[salt % 4])),
                        };
                    }
                    row
                })
                .collect();
            let inserts = TableSave {
                inserts: rows.clone(),
                ..unchanged(table)
            };
            save(&store, "a", vec![inserts], Vec::new()).await.expect("a save");
            assert_eq!(all_rows(&store, "a", table).await, rows, "{}", table.name);
        }
    }
}

fn is_indexed(table: &Table, column: usize) -> bool {
    table
        .indexes
        .iter()
        .any(|index| index.columns().any(|indexed| indexed == column))
}

#[tokio::test]
async fn a_dropped_transaction_leaves_nothing() {
    for store in stores().await {
        let (transaction, head, _) = store.begin("a", Plan::new()).await.expect("a transaction");
        assert_eq!((head.position, head.first_position, head.epoch), (0, 1, 0));
        drop(transaction);
        // Given up before it was opened, or after.
        let begin = store.begin("a", Plan::new());
        let _ = tokio::time::timeout(Duration::ZERO, begin).await;
        let (transaction, head, _) = store.begin("a", Plan::new()).await.expect("a transaction");
        assert_eq!(head.position, 0);
        drop(transaction);
        assert!(store.namespaces().await.expect("a read").is_empty());
    }
}

#[tokio::test]
async fn the_head_is_what_was_committed_last_and_time_does_not_run_backwards() {
    for store in stores().await {
        let (transaction, head, _) = store.begin("a", Plan::new()).await.expect("a transaction");
        let later = head.now + Duration::from_secs(3_600);
        let committed = Head {
            batch: 1,
            position: 7,
            first_position: 3,
            epoch: 5,
            last_token: 5 << TOKEN_COUNTER_BITS,
            now: later,
        };
        let save = next(
            Vec::new(),
            Vec::new(),
            Head {
                batch: 0,
                ..committed.clone()
            },
        );
        transaction.commit(save).await.expect("a commit");
        let (transaction, head, _) = store.begin("a", Plan::new()).await.expect("a transaction");
        assert_eq!(head, committed);
        drop(transaction);
        let (head, _) = store.read("a", Plan::new()).await.expect("a read");
        assert_eq!(head, committed);
        assert_eq!(store.read("b", Plan::new()).await.expect("a read").0.position, 0);
        assert_eq!(store.namespaces().await.expect("a read"), ["a"]);
    }
}

#[tokio::test]
async fn a_transaction_reads_more() {
    for store in stores().await {
        let table = table();
        let inserts = TableSave {
            inserts: (0..5).map(|salt| row(table, salt)).collect(),
            ..unchanged(table)
        };
        save(&store, "a", vec![inserts], Vec::new()).await.expect("a save");
        let plan = |salts: &[i64]| {
            vec![TablePlan {
                keys: salts.iter().map(|salt| key_of(table, &row(table, *salt))).collect(),
                ..nothing(table)
            }]
        };
        let (mut transaction, _, rows) = store.begin("a", plan(&[3, 77])).await.expect("a transaction");
        assert_eq!(rows[0].by_key, [row(table, 3)]);
        for salt in [0, 4] {
            let rows = transaction.load(plan(&[salt])).await.expect("a load");
            assert_eq!(rows[0].by_key, [row(table, salt)]);
        }
    }
}

#[tokio::test]
async fn a_refused_save_changes_nothing() {
    for store in stores().await {
        let table = table();
        let insert = |salt| TableSave {
            inserts: vec![row(table, salt)],
            ..unchanged(table)
        };
        save(&store, "a", vec![insert(1)], Vec::new()).await.expect("a save");
        let refused = save(&store, "a", vec![insert(2), insert(1)], Vec::new()).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");

        let mut wrong = row(table, 3);
        wrong[0] = Value::Null;
        let wrong = TableSave {
            inserts: vec![wrong],
            ..unchanged(table)
        };
        let refused = save(&store, "a", vec![insert(4), wrong], Vec::new()).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");

        assert_eq!(all_rows(&store, "a", table).await, [row(table, 1)]);
        assert_eq!(store.read("a", Plan::new()).await.expect("a read").0.position, 1);
    }
}

#[tokio::test]
async fn a_batch_is_appended_only_to_the_newest() {
    for store in stores().await {
        let table = table();
        let batch = |head: &Head, salt| {
            let inserts = vec![row(table, salt)];
            let save = TableSave {
                inserts,
                ..unchanged(table)
            };
            let head = Head {
                epoch: store.epoch(),
                ..head.clone()
            };
            next(vec![save], Vec::new(), head)
        };
        let (transaction, head, _) = store.begin("a", Plan::new()).await.expect("a turn");
        let first = batch(&head, 1);
        let (first_id, head) = (first.note.batch_id.clone(), first.head.clone());
        transaction.commit(first).await.expect("a commit");

        let second = batch(&head, 2);
        let (second_id, second_head) = (second.note.batch_id.clone(), second.head.clone());
        let time = store.append("a", &first_id, second).await.expect("after the newest");
        assert!(time >= head.now);
        // Neither after what is not the newest any more, nor after what never was, nor where nothing is.
        for (namespace, newest, head) in [
            ("a", &first_id, &head),
            ("a", &first_id, &second_head),
            ("a", &"of nobody".to_owned(), &second_head),
            ("nowhere", &second_id, &second_head),
        ] {
            let refused = store.append(namespace, newest, batch(head, 3)).await;
            assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
        }
        // Nor with a decision that is too old.
        let mut late = batch(&second_head, 3);
        late.head.now = Time(second_head.now.0 - 10_000_000);
        let refused = store.append("a", &second_id, late).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
        // What breaks a constraint is refused.
        let refused = store.append("a", &second_id, batch(&second_head, 2)).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
        assert_eq!(all_rows(&store, "a", table).await, [row(table, 1), row(table, 2)]);

        store
            .append("a", &second_id, batch(&second_head, 3))
            .await
            .expect("after the newest");
        assert_eq!(all_rows(&store, "a", table).await.len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_of_one_namespace_exclude_each_other() {
    for store in stores().await {
        let lanes: Vec<_> = (0..8)
            .map(|lane| {
                let store = Store::clone(&store);
                tokio::spawn(async move {
                    // Two of the lanes are in a namespace of their own.
                    let namespace = if lane < 6 { "shared" } else { "other" };
                    for _ in 0..20 {
                        let (transaction, mut head, _) = store.begin(namespace, Plan::new()).await.expect("a turn");
                        tokio::task::yield_now().await;
                        head.position += 1;
                        let save = next(Vec::new(), Vec::new(), head);
                        transaction.commit(save).await.expect("a commit");
                    }
                })
            })
            .collect();
        for lane in lanes {
            lane.await.expect("no panic");
        }
        assert_eq!(store.read("shared", Plan::new()).await.expect("a read").0.position, 120);
        assert_eq!(store.read("other", Plan::new()).await.expect("a read").0.position, 40);
    }
}

#[tokio::test]
async fn trims_delete_the_beginning_of_an_index() {
    for store in stores().await {
        for table in TABLES {
            for (number, index) in table
                .indexes
                .iter()
                .enumerate()
                .filter(|(_, index)| index.prefix.is_empty())
            {
                let namespace = index.name;
                let rows: Vec<_> = (1..=6).map(|salt| row(table, salt)).collect();
                let inserts = TableSave {
                    inserts: rows.clone(),
                    ..unchanged(table)
                };
                save(&store, namespace, vec![inserts], Vec::new())
                    .await
                    .expect("a save");
                let trim = |from: usize, up_to: usize, limit| Trim {
                    table,
                    index: number,
                    from: rows[from][index.order[0]].clone(),
                    up_to: rows[up_to][index.order[0]].clone(),
                    limit,
                };
                save(&store, namespace, Vec::new(), vec![trim(0, 1, 10)])
                    .await
                    .expect("a trim");
                assert_eq!(all_rows(&store, namespace, table).await, rows[2..], "{}", index.name);
                save(&store, namespace, Vec::new(), vec![trim(0, 5, 3)])
                    .await
                    .expect("a trim");
                assert_eq!(all_rows(&store, namespace, table).await, rows[5..], "{}", index.name);
            }
        }
    }
}
