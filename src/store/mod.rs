//! Where a service keeps bytes: sealed blobs in a directory, in memory or in S3, and the keys that
//! open them. Which asset a blob belongs to is the catalog's affair.

pub mod blobs;
pub mod keys;
pub mod records;
pub mod sealed;
pub mod tags;
