using System.Buffers.Text;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;

namespace CachingApi.Sessions;

/// <summary>The SHA-256 of a session's token.</summary>
internal readonly record struct TokenHash(UInt128 First, UInt128 Second);

/// <summary>
/// A session's token: the user's id (16 bytes), then 256 random bits, in base64url. With the id, all keys of one user can be in one slot of
/// a Redis Cluster, so that one script decides on a session and on the user's revocation together.
/// </summary>
internal readonly record struct SessionToken
{
    public const int Length = 64;

    private const int RandomBytes = 32;

    private SessionToken(string text, Guid userId) => (Text, UserId) = (text, userId);

    /// <summary>The secret itself: only for the client, never for a log or a key.</summary>
    public string Text { get; }

    public Guid UserId { get; }

    /// <summary>The hash that Redis stores; it cannot be used to log in.</summary>
    public string Hash => Convert.ToHexStringLower(SHA256.HashData(Encoding.ASCII.GetBytes(Text)));

    /// <summary>The hash as a value: the key in memory.</summary>
    public TokenHash Digest
    {
        get
        {
            Span<byte> text = stackalloc byte[Length];
            Span<byte> hash = stackalloc byte[SHA256.HashSizeInBytes];
            Encoding.ASCII.GetBytes(Text, text);
            SHA256.HashData(text, hash);
            return MemoryMarshal.Read<TokenHash>(hash);
        }
    }

    public static SessionToken New(Guid userId)
    {
        Span<byte> bytes = stackalloc byte[16 + RandomBytes];
        userId.TryWriteBytes(bytes, bigEndian: true, out _);
        RandomNumberGenerator.Fill(bytes[16..]);
        return new(Base64Url.EncodeToString(bytes), userId);
    }

    /// <summary>Parses a token from a client; <c>null</c> for a text that cannot be a token, so that Redis is not asked.</summary>
    public static SessionToken? Parse(string text)
    {
        Span<byte> bytes = stackalloc byte[16 + RandomBytes];
        return text.Length == Length && Base64Url.IsValid(text, out var length) && length == bytes.Length
            && Base64Url.TryDecodeFromChars(text, bytes, out _)
                ? new(text, new Guid(bytes[..16], bigEndian: true))
                : null;
    }

    public override string ToString() => "(token)";
}
