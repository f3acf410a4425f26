using System.ComponentModel.DataAnnotations;
using Microsoft.Extensions.Options;

namespace CachingApi;

internal static class ValidatedOptions
{
    /// <summary>Binds a section of the configuration. An invalid value fails startup, and the error names it in full.</summary>
    /// <param name="strict">Whether unknown names also fail startup; if not, unreadable entries of a dictionary are left out.</param>
    public static IServiceCollection AddValidatedOptions<T>(this IServiceCollection services, string section, bool strict = false)
        where T : class
    {
        services.AddOptionsWithValidateOnStart<T>().BindConfiguration(section, binder => binder.ErrorOnUnknownConfiguration = strict);
        return services.AddSingleton<IValidateOptions<T>>(new Validator<T>(section));
    }

    /// <summary>The errors of the configuration in one line; <c>null</c> if there are none.</summary>
    public static string? ConfigurationProblem(this IHost host)
    {
        try
        {
            host.Services.GetRequiredService<IStartupValidator>().Validate();
            return null;
        }
        catch (Exception error) when (error is OptionsValidationException or AggregateException or InvalidOperationException)
        {
            var problems = error is AggregateException several ? several.Flatten().InnerExceptions : [error];
            return $"The configuration is invalid: {string.Join("; ", problems.Select(Reason))}. "
                + "./dev run starts the service together with its servers.";
        }
    }

    /// <summary>The error itself, which the binder wraps in a general one.</summary>
    public static string Reason(Exception problem) =>
        problem.InnerException is InvalidOperationException inner ? Reason(inner) : problem.Message;

    private sealed class Validator<T>(string section) : IValidateOptions<T> where T : class
    {
        public ValidateOptionsResult Validate(string? name, T options)
        {
            var problems = new List<ValidationResult>();
            return System.ComponentModel.DataAnnotations.Validator.TryValidateObject(
                options, new(options), problems, validateAllProperties: true)
                ? ValidateOptionsResult.Success
                : ValidateOptionsResult.Fail(
                    problems.Select(problem => $"{section}:{problem.MemberNames.FirstOrDefault()}: {problem.ErrorMessage}"));
        }
    }
}
