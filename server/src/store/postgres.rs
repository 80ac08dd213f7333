//! Placeholder until the store lands.
use super::*;
#[derive(Clone)]
pub struct Postgres;
pub struct Transaction;
#[allow(unused_variables, missing_docs)]
impl Postgres {
    pub async fn begin(&self, namespace: &str, plan: Plan) -> Result<(Transaction, Head, Rows), StoreError> {
        todo!()
    }
    pub async fn read(&self, namespace: &str, plan: Plan) -> Result<(Head, Rows), StoreError> {
        todo!()
    }
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        todo!()
    }
    pub fn epoch(&self) -> i64 {
        todo!()
    }
    pub async fn namespaces(&self) -> Result<Vec<String>, StoreError> {
        todo!()
    }
}
#[allow(unused_variables)]
impl Transaction {
    pub async fn load(&mut self, plan: Plan) -> Result<Rows, StoreError> {
        todo!()
    }
    pub async fn commit(self, save: Save) -> Result<(), StoreError> {
        todo!()
    }
}
