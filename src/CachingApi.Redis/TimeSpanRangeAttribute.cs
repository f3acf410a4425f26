using System.ComponentModel.DataAnnotations;
using System.Globalization;

namespace CachingApi.Redis;

/// <summary>The bounds of a time span. <see cref="RangeAttribute"/> is not safe for trimming with this type.</summary>
[AttributeUsage(AttributeTargets.Property)]
internal sealed class TimeSpanRangeAttribute(string minimum, string maximum)
    : ValidationAttribute($"The field {{0}} must be between {minimum} and {maximum}.")
{
    public string Minimum => minimum;

    public string Maximum => maximum;

    public override bool IsValid(object? value) => value is TimeSpan span
        && span >= TimeSpan.Parse(minimum, CultureInfo.InvariantCulture)
        && span <= TimeSpan.Parse(maximum, CultureInfo.InvariantCulture);
}
