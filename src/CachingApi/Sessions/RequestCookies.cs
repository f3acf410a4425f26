namespace CachingApi.Sessions;

/// <summary>
/// Reads cookies by their exact names. The framework ignores letter case, so it would accept <c>__HOST-SESSION</c>, which another subdomain
/// may be able to set, as <c>__Host-session</c>.
/// </summary>
internal static class RequestCookies
{
    /// <summary>The value of a cookie; <c>null</c> if the request has no cookie or several cookies of this name.</summary>
    public static string? Find(HttpRequest request, string name)
    {
        string? found = null;
        foreach (var header in request.Headers.Cookie)
        {
            foreach (var part in header.AsSpan().Split(';'))
            {
                var cookie = header.AsSpan()[part].Trim();
                var equals = cookie.IndexOf('=');
                if (equals < 0 || !cookie[..equals].TrimEnd().SequenceEqual(name))
                {
                    continue;
                }

                if (found is not null)
                {
                    return null;
                }

                found = cookie[(equals + 1)..].Trim().ToString();
            }
        }

        return found;
    }
}
