namespace CachingApi.Caching.Operations;

/// <summary>A committed change of an entity.</summary>
/// <param name="Revision">The entity's revision after the change. The revision of a deletion is later than the last version.</param>
public readonly record struct EntityChange(string Id, Revision Revision, bool IsDeletion = false);
