//! stub
/// stub
/// # Errors
/// stub
pub fn baked_textures(_b: &[u8]) -> Result<Vec<uuid::Uuid>, super::error::DecodeError> {
    Ok(vec![])
}
