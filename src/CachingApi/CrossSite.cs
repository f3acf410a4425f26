namespace CachingApi;

/// <summary>Recognises requests that a browser sends because of another site's page.</summary>
internal static class CrossSite
{
    /// <summary>Whether <c>Sec-Fetch-Site</c>, or without it <c>Origin</c>, names another site. Only browsers send these headers.</summary>
    public static bool IsSource(HttpRequest request)
    {
        var site = request.Headers["Sec-Fetch-Site"].ToString();
        if (site.Length > 0)
        {
            return site is not ("same-origin" or "none");
        }

        var origin = request.Headers.Origin.ToString();
        return origin.Length > 0 && !string.Equals(origin, $"{request.Scheme}://{request.Host}", StringComparison.OrdinalIgnoreCase);
    }
}
