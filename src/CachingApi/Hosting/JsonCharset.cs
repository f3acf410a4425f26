using Microsoft.AspNetCore.Http.Metadata;
using Microsoft.Net.Http.Headers;

namespace CachingApi.Hosting;

/// <summary>
/// Accepts JSON in UTF-8 for any spelling of the <c>charset</c> (quoted, without the hyphen, in any letter case), and refuses every other
/// charset with a 415: JSON between systems is UTF-8 (RFC 8259, section 8.1). The framework throws for an unknown charset.
/// </summary>
internal static class JsonCharset
{
    public static void UseJsonCharset(this WebApplication app) => app.Use(static (context, next) =>
    {
        var request = context.Request;
        if (context.GetEndpoint()?.Metadata.GetMetadata<IAcceptsMetadata>() is null
            || !MediaTypeHeaderValue.TryParse(request.ContentType, out var type)
            || !type.Parameters.Any(IsCharset))
        {
            return next(context);
        }

        if (type.Parameters.Where(IsCharset).All(IsUtf8))
        {
            request.ContentType = type.MediaType.ToString();
            return next(context);
        }

        return Results.Problem(statusCode: StatusCodes.Status415UnsupportedMediaType).ExecuteAsync(context);
    });

    private static bool IsCharset(NameValueHeaderValue parameter) => parameter.Name.Equals("charset", StringComparison.OrdinalIgnoreCase);

    private static bool IsUtf8(NameValueHeaderValue charset) =>
        HeaderUtilities.UnescapeAsQuotedString(charset.Value) is var name
        && (name.Equals("utf-8", StringComparison.OrdinalIgnoreCase) || name.Equals("utf8", StringComparison.OrdinalIgnoreCase));
}
