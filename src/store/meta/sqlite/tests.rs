//! That each statement goes along an index, and that a file system which fails is not believed.

use super::*;
use crate::base::id::{NodeId, OwnerId};

async fn database() -> (tempfile::TempDir, Database) {
    let directory = tempfile::tempdir().unwrap();
    let (database, _) = Database::open(&directory.path().join("meta.db")).await.unwrap();
    (directory, database)
}

#[tokio::test]
async fn every_statement_goes_along_an_index() {
    let (_directory, database) = database().await;
    let ranges = [
        Range::Entries(NodeId(1)),
        Range::NamesOf(NodeId(1)),
        Range::Objects(OwnerId(1), "a/".to_owned()),
        Range::ObjectsOf(NodeId(1)),
        Range::Jobs(OwnerId(1)),
        Range::Moves(OwnerId(1)),
        Range::Xattrs(NodeId(1)),
        Range::Orphans(OwnerId(1)),
        Range::Owners,
    ];
    let mut statements = Vec::new();
    for range in &ranges {
        use sqlx::Execute;
        let (query, key) = range::select(range, &range.start(), 10);
        statements.push(query.sql().as_str().to_owned());
        let table = table::statements(key);
        statements.push(table.get.clone());
        statements.extend(table.drop.iter().cloned());
    }
    statements.push("SELECT * FROM blob WHERE modified_seq > clean_through AND blob > ? ORDER BY blob LIMIT ?".to_owned());
    for of in [&table::BLOB, &table::PAGE, &table::PAGES_OF_BLOB] {
        statements.extend(of.drop.iter().cloned());
    }
    for statement in statements {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
        let rows = database.all(sqlx::query(explain)).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.try_get(3).unwrap()).collect();
        assert!(plan.iter().any(|step| step.contains("SEARCH") || step.contains("USING")), "{statement}: {plan:?}");
        let slow = |step: &&String| step.contains("TEMP B-TREE FOR ORDER") || (step.starts_with("SCAN") && step.len() < 12);
        assert_eq!(plan.iter().find(slow), None, "{statement}: {plan:?}");
    }
}

/// After an I/O error the next apply writes the whole WAL anew before anything is promised.
#[tokio::test]
async fn after_a_failed_sync_the_wal_is_folded_first() {
    let (directory, database) = database().await;
    let wal = directory.path().join("meta.db-wal");
    let apply = async || database.apply(&[], &Checkpoint::default(), true).await.unwrap();
    for _ in 0..10 {
        apply().await;
    }
    let before = std::fs::metadata(&wal).unwrap().len();
    database.writer.lock().await.as_mut().unwrap().suspect = true;
    apply().await;
    assert!(std::fs::metadata(&wal).unwrap().len() < before, "cut, and only the last transaction in it");
    assert!(!database.writer.lock().await.as_ref().unwrap().suspect);
}
